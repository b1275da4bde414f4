// Family attend as it is emitted: one object emits one kernel. Internal to emit_attend.cc, which has the formula and
// what all kernels share, emit_attend_many.cc and emit_attend_few.cc, which make the scores and weights of a tile.
//
// What a grain has stands in scratch (AttendSpec says where); handles below are values of the code that is emitted. A
// method emits code where the builder stands.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "backend/emit.h"

namespace sinter {

inline constexpr DType kF32 = DType::kF32;
inline constexpr double kInf = std::numeric_limits<double>::infinity();

class AttendEmitter {
 public:
  AttendEmitter(const KernelSpec& kernel, VectorBuilder& b);
  void Emit();

 private:
  static constexpr int64_t kPitch = AttendSpec::kMaxQueries;  // of what lies [..][query], where queries are many
  static constexpr int64_t kInTurn = 2;                       // as few heads take positions one after the other
  static constexpr int64_t kUnrolled = 16;                    // vectors of a row in a straight line

  Ptr Part(int64_t floats) { return At(b_.Scratch(), b_.Const(floats)); }
  Ptr At(Ptr base, Int floats) { return b_.Offset(base, DType::kF32, floats); }
  Int Times(Int a, int64_t n) { return b_.Mul(a, b_.Const(n)); }
  Int Plus(Int a, int64_t n) { return b_.Add(a, b_.Const(n)); }
  Int Stride(const Access& access, size_t axis) { return b_.Dim(access.strides[axis]); }
  // Where an access of row t and head h of the grain is away from its first.
  Int Away(const Access& access, Int t, Int h) {
    const Int rows = b_.Mul(t, Stride(access, batch_));
    return batch_ > 0 ? b_.Add(rows, b_.Mul(h, Stride(access, batch_ - 1))) : rows;
  }
  // The larger of two; NaN in `b` is passed over (its exp will show it).
  Vec Larger(Vec a, Vec b) { return b_.Select(b_.LessThan(a, b), b, a); }

  // A grain
  void EnterPart(Int part);
  void Grain();
  void Values(Int s, Int n, Int clear);
  void ValueTile(Ptr values, Int query, Int e, int queries, int columns, const Mask* mask, Int n, Int clear);
  void Finish();
  // Parts of it
  void ForQueries(const std::function<void(Int t, Int h, Int query)>& body);
  void ForVectors(int64_t width, const std::vector<Handle*>& carried, const std::function<void(Int, const Mask*)>& body,
                  int64_t unrolled = kUnrolled);
  Vec LoadRow(DType dtype, Ptr row, Int at, const Mask* mask);
  Int Limit(Int t);
  void Fill(Ptr at, int64_t floats, double value);
  void MaskScores(Int s, Int n, Int clear);
  void Renew(Int first, Vec m, Vec sum);

  // Many queries, in lanes
  void TurnQueries();
  void ScoresOfMany(Int s, Int n);
  void SoftmaxOfMany(Int n);

  // Few queries, along their width
  void FetchAhead(DType dtype, Ptr row, int64_t elements);
  void CopyQueries();
  Vec ScoresOfFew(Int s, Int n);
  void AddProducts(const std::vector<Ptr>& keys, std::vector<Vec>& sums);
  void ScoresTogether(Ptr keys, Int n, Vec* largest);
  void ScoresInTurn(Ptr keys, Int n);
  void SoftmaxOfFew(Int n, Vec m);
  bool HasLargest() const { return parts_ > 1 && !spec_.mask; }

  const KernelSpec& kernel_;
  const AttendSpec& spec_;
  VectorBuilder& b_;
  const int lanes_;
  const size_t batch_;
  int vectors_ = 1;                                               // of queries, in a tile of scores
  int64_t at_once_ = 1;                                           // positions in a vector of scores of few queries
  int64_t parts_ = 1, set_ = 1;                                   // heads in a vector of few queries, and how far apart
  Ptr queries_, scores_, outputs_, maxima_, sums_, corrections_;  // in scratch
  Ptr q_, k_, v_, out_, weight_, pos_, mask_;                     // of the grain
  Int first_, positions_;                                         // of the part, or of all
  Int rows_, heads_, count_, all_see_, end_;
};

}  // namespace sinter
