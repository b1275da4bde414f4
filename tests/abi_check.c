/* abi.h is plain C: what a C compiler says of its layout. */
#include <stddef.h>

#include "runtime/abi.h"

typedef char every_field_is_8_bytes[sizeof(SinterKernelArgs) == 24 && sizeof(SinterState) == 16 ? 1 : -1];

const size_t sinter_abi_offsets[5] = {offsetof(SinterKernelArgs, operands), offsetof(SinterKernelArgs, dims),
                                      offsetof(SinterKernelArgs, scratch), offsetof(SinterState, pages),
                                      offsetof(SinterState, page_rows)};
