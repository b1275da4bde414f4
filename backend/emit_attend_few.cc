// Scores and weights of a tile of positions for few queries, each along its width.
#include <algorithm>

#include "backend/attend_emitter.h"
#include "backend/math.h"

namespace sinter {

// Where several heads share a row so much is computed with it that the CPU looks too short a way ahead by itself;
// with fewer heads, row after row, it needs no help.
void AttendEmitter::FetchAhead(DType dtype, Ptr row, int64_t elements) {
  constexpr int64_t kAheadBytes = int64_t{16} << 10, kLineBytes = 64;
  if (spec_.wide || spec_.heads <= kInTurn) return;
  const DTypeInfo& info = Info(dtype);
  const int64_t bytes = elements * info.block_bytes / info.block_elems;
  for (int64_t i = 0; i < bytes; i += kLineBytes) {
    b_.Prefetch(b_.Offset(row, DType::kI8, b_.Const(kAheadBytes + i)));
  }
}

// Vectors of queries: of `parts_` heads, `set_` apart, so many elements each. With two in a vector a key is read in
// halves of it, each twice, and of what must be reduced there is half as much.
//   queries_[head % set_][d / part][head / set_][d % part] = scale * q
// and zeros past the width and where there is no head.
void AttendEmitter::CopyQueries() {
  const int64_t part = lanes_ / parts_;
  if (parts_ > 1 && spec_.heads < spec_.pitch()) Fill(queries_, spec_.pitch() * spec_.key_pitch(), 0);
  const Mask first = b_.FirstLanes(b_.Const(part));
  ForQueries([&](Int t, Int h, Int) {
    const Ptr from = At(q_, Away(spec_.q, t, h));
    const Int row = Times(b_.Rem(h, b_.Const(set_)), parts_ * spec_.key_pitch());
    const Ptr to = At(queries_, b_.Add(row, Times(b_.Div(h, b_.Const(set_)), part)));
    const auto copy = [&](Int d, const Mask* read, const Mask* written) {
      b_.Store(kF32, At(to, Times(d, parts_)), b_.Mul(b_.Load(kF32, At(from, d), read), b_.Splat(spec_.scale)),
               written);
    };
    if (parts_ == 1) {
      ForVectors(spec_.key_width, {}, [&](Int d, const Mask* mask) { copy(d, mask, nullptr); });
    } else {
      b_.For(b_.Const(0), b_.Const(spec_.key_width), part, {}, [&](Int d) { copy(d, &first, &first); });
    }
  });
}

// scores_[position][query], and -inf in the lanes past the last position. Gives the largest so far of each lane
// where HasLargest says so: what takes keys in halves leaves a register for it. All else, and what has masks,
// SoftmaxOfFew reads once more.
Vec AttendEmitter::ScoresOfFew(Int s, Int n) {
  Vec largest;
  const Ptr keys = b_.Offset(k_, spec_.k.dtype, b_.Mul(s, Stride(spec_.k, batch_)));
  if (spec_.has_scores) {
    b_.For(b_.Const(0), n, lanes_, {}, [&](Int i) {
      const Mask mask = b_.FirstLanes(b_.Sub(n, i));
      b_.Store(kF32, At(scores_, i), b_.Load(kF32, At(keys, i), &mask));
    });
  } else if (HasLargest()) {
    largest = b_.Load(kF32, maxima_);
    ScoresTogether(keys, n, &largest);
  } else if (spec_.heads > kInTurn) {
    ScoresTogether(keys, n, nullptr);
  } else {
    ScoresInTurn(keys, n);
  }
  const Int rest = b_.Rem(n, b_.Const(at_once_));
  const Ptr last = At(scores_, Times(b_.Sub(n, rest), spec_.pitch()));
  b_.If(b_.Less(b_.Const(0), rest), [&] {
    const Mask seen = b_.FirstLanes(Times(rest, spec_.pitch()));
    b_.Store(kF32, last, b_.Select(seen, b_.Load(kF32, last), b_.Splat(-kInf)));
  });
  return largest;
}

// sums[i * used + r] += the products of key i and vectors r of queries, `used` of them, lane by lane.
void AttendEmitter::AddProducts(const std::vector<Ptr>& keys, std::vector<Vec>& sums) {
  const size_t used = sums.size() / keys.size();
  const auto add = [&](Int d, const Mask* mask) {
    std::vector<Vec> x;
    for (const Ptr& key : keys) {
      const DType dtype = spec_.k.dtype;
      x.push_back(parts_ > 1 ? b_.LoadTwice(dtype, b_.Offset(key, dtype, d)) : LoadRow(dtype, key, d, mask));
    }
    for (size_t r = 0; r < used; ++r) {
      const Int row = b_.Const(static_cast<int64_t>(r) * parts_ * spec_.key_pitch());
      const Vec q = b_.Load(kF32, At(queries_, b_.Add(Times(d, parts_), row)));
      for (size_t i = 0; i < keys.size(); ++i) sums[i * used + r] = b_.Fma(x[i], q, sums[i * used + r]);
    }
  };
  if (parts_ > 1) {
    return b_.For(b_.Const(0), b_.Const(spec_.key_width), lanes_ / parts_, Carry(sums),
                  [&](Int d) { add(d, nullptr); });
  }
  // In a straight line, code generation would bring forward more loads than there are registers for.
  const bool straight = keys.size() == 1 && (spec_.heads <= kInTurn || !IsQuantized(spec_.k.dtype));
  ForVectors(spec_.key_width, Carry(sums), add, straight ? kUnrolled : 2);
}

// As many dot products as a vector has lanes are reduced at once, of as many positions as leave that many vectors of
// sums. Past the last position the last key is read again.
void AttendEmitter::ScoresTogether(Ptr keys, Int n, Vec* largest) {
  const Int key_pitch = Stride(spec_.k, batch_), last = Plus(n, -1);
  const int64_t together = at_once_ * parts_;
  std::vector<Handle*> carried;
  if (largest != nullptr) carried.push_back(largest);
  b_.For(b_.Const(0), n, together, carried, [&](Int position) {
    std::vector<Ptr> some;
    for (int64_t i = 0; i < together; ++i) {
      const Int at = i == 0 ? position : b_.Min(Plus(position, i), last);
      some.push_back(b_.Offset(keys, spec_.k.dtype, b_.Mul(at, key_pitch)));
      FetchAhead(spec_.k.dtype, some.back(), spec_.key_width);
    }
    const int64_t used = std::min(set_, spec_.heads);
    std::vector<Vec> sums(static_cast<size_t>(together * used), b_.Splat(0));
    AddProducts(some, sums);
    for (int64_t first = 0; first < together; first += at_once_) {
      std::vector<Vec> rows(static_cast<size_t>(at_once_ * set_), b_.Splat(0));
      for (int64_t i = 0; i < at_once_; ++i) {
        const auto of_key = sums.begin() + (first + i) * used;
        std::copy(of_key, of_key + used, rows.begin() + i * set_);
      }
      const Ptr to = At(scores_, Times(Plus(position, first), spec_.pitch()));
      const Vec scores = b_.ReduceAddRows(std::move(rows), set_);
      if (largest != nullptr) *largest = Larger(*largest, scores);
      b_.Store(kF32, to, scores);
    }
  });
}

// One position after the other, as they lie in memory, which the CPU fetches best; of one or two queries it is memory
// that takes the time.
void AttendEmitter::ScoresInTurn(Ptr keys, Int n) {
  b_.For(b_.Const(0), n, 1, {&keys}, [&](Int position) {
    std::vector<Vec> sums(static_cast<size_t>(spec_.heads), b_.Splat(0));
    AddProducts({keys}, sums);
    const Ptr to = At(scores_, Times(position, spec_.pitch()));
    for (int64_t h = 0; h < spec_.heads; ++h) {
      b_.StoreFirst(kF32, At(to, b_.Const(h)), b_.ReduceAdd(sums[static_cast<size_t>(h)]));
    }
    keys = b_.Offset(keys, spec_.k.dtype, Stride(spec_.k, batch_));
  });
}

// As SoftmaxOfMany. The sums of a query stay in the lanes of its positions until the end.
void AttendEmitter::SoftmaxOfFew(Int n, Vec m) {
  if (!HasLargest()) {
    m = b_.Load(kF32, maxima_);
    b_.For(b_.Const(0), n, at_once_, {&m},
           [&](Int i) { m = Larger(m, b_.Load(kF32, At(scores_, Times(i, spec_.pitch())))); });
  }
  m = b_.ReduceMax(m, spec_.pitch());
  Vec sum = b_.Splat(0);
  b_.For(b_.Const(0), n, at_once_, {&sum}, [&](Int i) {
    const Ptr place = At(scores_, Times(i, spec_.pitch()));
    const Vec p = EmitExpBelowZero(b_, b_.Sub(b_.Load(kF32, place), m));
    b_.Store(kF32, place, p);
    sum = b_.Add(sum, p);
  });
  Renew(b_.Const(0), m, sum);
}

}  // namespace sinter
