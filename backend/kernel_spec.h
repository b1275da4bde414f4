// What a kernel computes and how its work is cut: derived from a body graph, asked by kernel selection, barrier
// planning and the emitters. Knows no LLVM.
//
// A row kernel (families map, row and move) walks an iteration space: `axes`, of which the last, the inner axis, is
// vectorized. Every leaf of its expression is an Access: operand elements by strides over the axes. Reductions run
// along the inner axis; a value that does not depend on the inner axis is per row. A gemm kernel is C[batch.., m, n] =
// sum over k of A[batch.., m, k] * B[batch.., k, n].
//
// Errors are kUnimplemented: the body is well formed and no family computes it; the message says what stands in the
// way.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backend/target.h"
#include "backend/view.h"
#include "base/checked.h"
#include "ir/graph.h"

namespace sinter {

// Elements of one operand, by strides over the axes of a kernel.
struct Access {
  uint32_t operand = 0;  // of the kernel: parameters of the body first, then its results that are no states
  DType dtype = DType::kF32;
  bool state = false;  // the operand is a SinterState
  DimExpr offset;
  std::vector<DimExpr> strides;
  // Rows that data choose: adds index * row_stride, where index is the integer element of `operand` at the strides
  // given. `rows`, at least 1: how many there are; any other index is the last of them, so that no data leads a kernel
  // out of its operands.
  struct Gather {
    uint32_t operand = 0;
    DType dtype = DType::kI32;
    DimExpr offset;
    std::vector<DimExpr> strides;
    DimExpr row_stride, rows;
  };
  std::optional<Gather> gather;
  // The operand is a weight [N,K] in the packing blocks16. Offset and strides are those of its elements row by row, K
  // along the inner axis; where they lie follows from the row and the place in it.
  bool blocks = false;
};

struct ExtentFactor {
  DimExpr expr;
  int64_t block = 1;
  bool fastest = false;  // in place of the last
  // Whether one grain takes all of it: an axis that cuts nothing.
  bool IsWhole() const { return expr.is_const() && expr.constant() <= block; }
  friend bool operator==(const ExtentFactor&, const ExtentFactor&) = default;
};

struct RowSpec {
  const Graph* expr = nullptr;                  // whose ops are emitted; the body, or the body of the loop in it
  absl::flat_hash_map<ValueId, Access> leaves;  // values of expr that are loads
  std::vector<DimExpr> axes;                    // the last is the inner axis
  struct Store {
    ValueId value;  // of expr
    Access to;
  };
  std::vector<Store> stores;
  std::vector<int64_t>
      blocks;  // of each axis: how much of it a grain takes; the inner one is cut only without reductions
  bool reduces = false;
};

struct GemmSpec {
  std::vector<DimExpr> batch;
  DimExpr m, n, k;
  Access a, b, c;                    // strides over batch.., then (m,k), (k,n), (m,n)
  const Packing* packing = nullptr;  // of b when it is a packed weight: strides of b are not used
  TileShape shape = TileShape::kOuter;
  int64_t m_block = 48, n_block = 64;  // rows and columns of a grain

  // How much of k tiles of so many columns take at a time: all of it, unless their part of a packed b is more than
  // stays in the second-level cache while the rows of a grain pass over it. Between, sums stand in scratch,
  // [m_block][columns].
  int64_t k_block(int64_t columns) const;
};

// softmax(scale * q k^T, mask) v, a tile of positions at a time: attend_spec.cc says how it is cut. Of attend_parts the
// same for each part of the positions; of join_parts with scores that are given.
struct AttendSpec {
  std::vector<DimExpr> batch;  // the axes of q before its last two; of attend_parts the parts before them
  DimExpr t, s;                // rows and positions
  int64_t key_width = 0, value_width = 0;
  Access q, k, v, out;              // strides over batch.., then (t,d), (s,d), (s,e), (t,e); the last is 1
  std::optional<Access> pos, mask;  // at most one: positions over batch.., t (causal); bools over batch.., t, s
  std::optional<Access> weight;     // stored by attend_parts: over batch.., t
  bool has_scores = false;          // k holds the scores of one row, of width 1, and there is no q
  double scale = 1;
  int64_t heads = 1, rows = 1;  // of a grain: indices of the last batch axis, which share k and v, and rows
  bool wide = false;            // many query rows, side by side in lanes; else few, each along its width

  static constexpr int64_t kMaxQueries = 32;        // heads * rows at most
  static constexpr int64_t kAlign = 16;             // floats: parts of the scratch begin at multiples of it
  int64_t tile() const { return wide ? 48 : 256; }  // positions
  bool copies_keys() const { return wide && k.dtype != DType::kF32; }
  int64_t key_pitch() const { return AlignUp(key_width, kAlign); }
  int64_t value_pitch() const { return AlignUp(value_width, kAlign); }
  // Of what lies [..][query]: few queries are padded to a power of two, at most 8, so that they divide a vector.
  int64_t pitch() const {
    return wide ? kMaxQueries : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(heads)));
  }
  // Floats of scratch before each part, and of all: queries, many as [d][32], few as [pitch] rows of key pitch; scores
  // [tile][pitch]; outputs [query][value pitch]; maxima, sums and corrections [queries] each; keys in f32 [tile][key
  // pitch] where they are copied.
  int64_t queries() const { return AlignUp(pitch(), kAlign); }
  int64_t scores_at() const { return (wide ? key_width : key_pitch()) * pitch(); }
  int64_t outputs_at() const { return scores_at() + tile() * pitch(); }
  int64_t rows_at() const { return outputs_at() + (wide ? kMaxQueries : heads) * value_pitch(); }
  int64_t keys_at() const { return rows_at() + 3 * queries(); }
  int64_t scratch_floats() const { return keys_at() + (copies_keys() ? tile() * key_pitch() : 0); }
};

// An axis that no grain cuts.
constexpr int64_t kWholeAxis = INT64_MAX;

struct KernelSpec {
  std::string family;  // map, row, move, gemm, attend; group: `parts` alone
  const Graph* body = nullptr;
  std::optional<RowSpec> row;
  std::optional<GemmSpec> gemm;
  std::optional<AttendSpec> attend;
  // Grains: the product of ceil(expr / block), the last factor fastest unless another is so marked. A group has those
  // of its lanes.
  std::vector<ExtentFactor> extent;
  int64_t scratch_bytes = 0;  // per thread

  // A group is a body of kernel ops, run as one step. Parts that read what another made form a lane: they have the same
  // extent, and a grain of one reads only what the same grain of the others stored, so that a thread runs them one
  // after another over its share. The grains of the lanes stand one after another. Operands are the group's.
  std::vector<KernelSpec> parts;   // in the order of the body; a lane's stand together
  int lane = 0;                    // of a part, from 0
  std::vector<std::string> tiles;  // of a part that is a product, as its kernel op names them
};

// The spec of a body. `packs`: the packing of each parameter (an entry per parameter; "" for what is no packed weight).
absl::StatusOr<KernelSpec> SpecOf(const Graph& body, absl::Span<const std::string> packs);
// The same of a body that is no group.
absl::StatusOr<KernelSpec> SpecOfOne(const Graph& body, absl::Span<const std::string> packs);
// The same of a body around one product.
absl::StatusOr<KernelSpec> GemmSpecOf(const Graph& body, OpId gemm, absl::Span<const std::string> packs);
// The same of a body around one attend, attend_parts or join_parts.
absl::StatusOr<KernelSpec> AttendSpecOf(const Graph& body, OpId attend, absl::Span<const std::string> packs);
// The packing of each argument of a kernel op, as SpecOf wants it.
std::vector<std::string> PacksOf(const Graph& graph, OpId kernel);
// The spec of a kernel op as it is called: with the symbols that the call binds (CallDims) replaced.
absl::StatusOr<KernelSpec> SpecOfKernel(const Graph& graph, OpId kernel);

// The kernels that a spec consists of: its parts, or itself.
absl::Span<const KernelSpec> PartsOf(const KernelSpec& spec);
// Whether an element that is stored needs others of its row, as rope's do, without a reduction.
bool HasRope(const RowSpec& row);
// Every access of the kernel to an operand, stores included.
std::vector<const Access*> AccessesOf(const KernelSpec& spec, uint32_t operand);
// How many places an access of the kernel (no group) has along each of its strides.
std::vector<DimExpr> SizesOf(const KernelSpec& spec, const Access& access);
// Whether a grain of `reader` reads of its operand only what the same grain of `writer` (no groups) stored there, and
// both have the same grains.
bool ReadsOwnGrains(const KernelSpec& writer, uint32_t stored, const KernelSpec& reader, uint32_t read);
// Whether there is one grain, so that one thread does all of it.
bool IsOneGrain(const KernelSpec& spec);

}  // namespace sinter
