/* The contract between compiled kernels and the runtime: plain C, included by the compiler and by the runtime.
 *
 * A kernel works on grains [begin, end) of its step's extent; what a grain is, the kernel alone knows. Kernels are
 * total: sizes are checked when dims are bound, so they return nothing, allocate nothing, lock nothing and call nothing
 * outside their image. Operands are in the order of the kernel's body: its parameters, then its results (a state result
 * is its parameter and takes no place). Layout rules: fields keep their place, new fields come last and raise
 * SINTER_ABI_VERSION; every field is 8 bytes. */
#ifndef SINTER_RUNTIME_ABI_H_
#define SINTER_RUNTIME_ABI_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SINTER_ABI_VERSION 1

/* State of one sequence: page i holds rows [i * page_rows, (i + 1) * page_rows) of the paged axis, every other axis
 * whole, row-major with the paged axis cut to page_rows. A sequence has one page today. Pages are 64-byte aligned. */
typedef struct SinterState {
  uint8_t* const* pages;
  int64_t page_rows;
} SinterState;

typedef struct SinterKernelArgs {
  /* One pointer an operand, 64-byte aligned except inputs and outputs of the caller (aligned to their element);
   * a state operand points to a SinterState. */
  void* const* operands;
  /* The values of the module's dim symbols, in the order of its table. */
  const int64_t* dims;
  /* Per-thread scratch, of the size that the image states, 64-byte aligned. */
  uint8_t* scratch;
} SinterKernelArgs;

typedef void (*SinterKernelFn)(const SinterKernelArgs* args, int64_t begin, int64_t end);

#ifdef __cplusplus
}
#endif

#endif /* SINTER_RUNTIME_ABI_H_ */
