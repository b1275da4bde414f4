// Family attend: softmax(scale * q k^T, mask) v without the matrix of scores. For each grain (some queries of one group
// of heads) the positions pass by in tiles; of each query are kept the largest score m so far, the sum l of exp(score -
// m) and the sum o of exp(score - m) * v, which a larger m corrects by exp(m_old - m):
//   m' = max(m, scores)   l' = l * exp(m - m') + sum exp(score - m')   o' = o * exp(m - m') + sum exp(score - m') * v
// and o / l is the result. Source: M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018; T. Dao
// et al., "FlashAttention", 2022.
//
// Many queries lie side by side in lanes: scores [position][query] are an outer product of keys and turned queries, and
// maxima and sums need no reduction. Few queries (a step of one row) lie along their width: each score is a dot
// product, and as many of them as a vector has lanes, of some positions, are reduced together; a vector of scores has
// the queries of one position after those of another. Both add their values by the same tiles of queries by columns.
// Positions past what any query of the grain sees are never touched; those that only some see are masked
// by scores of -inf, and their values by zeros, so that no NaN of theirs counts.
//
// Of a part of the positions m + log l is left, too. To join parts, those are the scores of one row over the parts,
// which need no queries.
//
// Every sum is taken in the order of positions and of tiles that begin at multiples of a fixed size, in a part from its
// first position on.
#include <algorithm>
#include <cfloat>

#include "backend/attend_emitter.h"
#include "backend/math.h"

namespace sinter {

AttendEmitter::AttendEmitter(const KernelSpec& kernel, VectorBuilder& b)
    : kernel_(kernel),
      spec_(*kernel.attend),
      b_(b),
      lanes_(b.lanes()),
      batch_(spec_.batch.size()),
      positions_(b.Dim(spec_.s)) {
  queries_ = Part(0);
  scores_ = Part(spec_.scores_at());
  outputs_ = Part(spec_.outputs_at());
  maxima_ = Part(spec_.rows_at());
  sums_ = Part(spec_.rows_at() + spec_.queries());
  corrections_ = Part(spec_.rows_at() + 2 * spec_.queries());
  at_once_ = spec_.wide ? 1 : lanes_ / spec_.pitch();
  const bool halves = spec_.heads > kInTurn && at_once_ > 1 && !IsQuantized(spec_.k.dtype);
  parts_ = !spec_.wide && halves && spec_.key_width % (lanes_ / 2) == 0 ? 2 : 1;
  set_ = spec_.pitch() / parts_;
  const int64_t most = spec_.heads * spec_.rows;
  vectors_ = most > lanes_ ? 2 : 1;
}

void AttendEmitter::Emit() {
  const Int all_rows = b_.Dim(spec_.t), all_heads = batch_ > 0 ? b_.Dim(spec_.batch.back()) : b_.Const(1);
  ForGrains(b_, kernel_, [&](std::vector<Int> index) {
    const Int t = b_.Mul(index.back(), b_.Const(spec_.rows));
    rows_ = RestOf(b_, all_rows, t, spec_.rows);
    index.pop_back();
    heads_ = b_.Const(1);
    if (batch_ > 0 && spec_.heads > 1) {
      index.back() = b_.Mul(index.back(), b_.Const(spec_.heads));
      heads_ = RestOf(b_, all_heads, index.back(), spec_.heads);
    }
    k_ = AddressOf(b_, spec_.k, index);
    v_ = AddressOf(b_, spec_.v, index);
    const Int part = spec_.weight ? index.front() : b_.Const(0);
    index.push_back(t);
    if (!spec_.has_scores) q_ = AddressOf(b_, spec_.q, index);
    out_ = AddressOf(b_, spec_.out, index);
    if (spec_.pos) pos_ = AddressOf(b_, *spec_.pos, index);
    if (spec_.mask) mask_ = AddressOf(b_, *spec_.mask, index);
    if (spec_.weight) {
      weight_ = AddressOf(b_, *spec_.weight, index);
      EnterPart(part);
    }
    count_ = b_.Mul(rows_, heads_);
    Grain();
  });
}

// Positions count from the first one of the part on.
void AttendEmitter::EnterPart(Int part) {
  const int64_t step = kPartStep * spec_.batch.front().constant();
  const Int all = b_.Dim(spec_.s), length = Times(b_.Div(Plus(all, step - 1), b_.Const(step)), kPartStep);
  first_ = b_.Min(b_.Mul(part, length), all);
  positions_ = b_.Min(length, b_.Sub(all, first_));
  k_ = b_.Offset(k_, spec_.k.dtype, b_.Mul(first_, Stride(spec_.k, batch_)));
  v_ = b_.Offset(v_, spec_.v.dtype, b_.Mul(first_, Stride(spec_.v, batch_)));
  if (spec_.mask) mask_ = b_.Offset(mask_, DType::kBool, b_.Mul(first_, Stride(*spec_.mask, batch_ + 1)));
}

// Queries of a grain: row t, head h, query t * heads + h.
void AttendEmitter::ForQueries(const std::function<void(Int t, Int h, Int query)>& body) {
  b_.For(b_.Const(0), rows_, 1, {}, [&](Int t) {
    const Int first = b_.Mul(t, heads_);
    b_.For(b_.Const(0), heads_, 1, {}, [&](Int h) { body(t, h, b_.Add(first, h)); });
  });
}

// Lanes from element `at` on of a row of keys or values that begins a block.
Vec AttendEmitter::LoadRow(DType dtype, Ptr row, Int at, const Mask* mask) {
  if (!IsQuantized(dtype)) return b_.Load(dtype, b_.Offset(row, dtype, at), mask);
  const int64_t block = Info(dtype).block_elems;
  int64_t known;
  const bool is_known = b_.IsConst(at, &known);
  return b_.LoadOfBlock(b_.Offset(row, dtype, at), is_known ? b_.Const(known % block) : b_.Rem(at, b_.Const(block)));
}

// How many positions row t sees.
Int AttendEmitter::Limit(Int t) {
  const Ptr at = b_.Offset(pos_, spec_.pos->dtype, b_.Mul(t, Stride(*spec_.pos, batch_)));
  const Int pos = b_.LoadIndex(spec_.pos->dtype, at);
  const Int last = b_.Min(spec_.weight ? b_.Sub(pos, first_) : pos, Plus(positions_, -1));
  return b_.Max(Plus(last, 1), b_.Const(0));
}

void AttendEmitter::Grain() {
  // Positions below `all_see_` every query sees, from `end_` on none.
  all_see_ = spec_.mask ? b_.Const(0) : positions_;
  end_ = positions_;
  if (spec_.pos) {
    end_ = b_.Const(0);
    b_.For(b_.Const(0), rows_, 1, {&all_see_, &end_}, [&](Int t) {
      const Int limit = Limit(t);
      all_see_ = b_.Min(all_see_, limit);
      end_ = b_.Max(end_, limit);
    });
  }
  if (spec_.wide) {
    TurnQueries();
  } else if (!spec_.has_scores) {
    CopyQueries();
  }
  Fill(outputs_, (spec_.wide ? kPitch : spec_.heads) * spec_.value_pitch(), 0);
  Fill(maxima_, spec_.queries(), -FLT_MAX);
  Fill(sums_, spec_.queries(), 0);
  b_.For(b_.Const(0), end_, spec_.tile(), {}, [&](Int s) {
    const Int end = b_.Min(Plus(s, spec_.tile()), end_), n = b_.Sub(end, s);
    // Of the tile, the first `clear` positions are seen by all.
    const Int clear = b_.Max(b_.Min(b_.Sub(all_see_, s), n), b_.Const(0));
    if (spec_.wide) {
      ScoresOfMany(s, n);
      if (spec_.pos || spec_.mask) MaskScores(s, n, clear);
      SoftmaxOfMany(n);
    } else {
      const Vec largest = ScoresOfFew(s, n);
      if (spec_.mask) MaskScores(s, n, clear);
      SoftmaxOfFew(n, largest);
    }
    Values(s, n, clear);
  });
  Finish();
}

void AttendEmitter::Fill(Ptr at, int64_t floats, double value) {
  b_.For(b_.Const(0), b_.Const(floats), lanes_, {}, [&](Int i) { b_.Store(kF32, At(at, i), b_.Splat(value)); });
}

void AttendEmitter::ForVectors(int64_t width, const std::vector<Handle*>& carried,
                               const std::function<void(Int, const Mask*)>& body, int64_t unrolled) {
  const int64_t whole = width / lanes_ * lanes_;
  if (whole <= unrolled * lanes_) {
    for (int64_t at = 0; at < whole; at += lanes_) body(b_.Const(at), nullptr);
  } else {
    b_.For(b_.Const(0), b_.Const(whole), lanes_, carried, [&](Int at) { body(at, nullptr); });
  }
  if (whole == width) return;
  const Mask mask = b_.FirstLanes(b_.Const(width - whole));
  body(b_.Const(whole), &mask);
}

// -inf where a query does not see a position.
void AttendEmitter::MaskScores(Int s, Int n, Int clear) {
  const Vec hidden = b_.Splat(-kInf);
  b_.If(b_.Less(clear, n), [&] {
    ForQueries([&](Int t, Int h, Int query) {
      const Ptr column = At(scores_, query);
      if (spec_.pos) {
        const Int first = b_.Max(b_.Sub(Limit(t), s), b_.Const(0));
        b_.For(first, n, 1, {}, [&](Int i) { b_.StoreFirst(kF32, At(column, Times(i, spec_.pitch())), hidden); });
        return;
      }
      const Int stride = Stride(*spec_.mask, batch_ + 1);
      const Ptr row = b_.Offset(mask_, DType::kBool, b_.Add(Away(*spec_.mask, t, h), b_.Mul(s, stride)));
      b_.For(b_.Const(0), n, 1, {}, [&](Int i) {
        const Ptr at = At(column, Times(i, spec_.pitch()));
        const Mask seen = b_.LoadMaskSplat(b_.Offset(row, DType::kBool, b_.Mul(i, stride)));
        b_.StoreFirst(kF32, at, b_.Select(seen, b_.LoadSplat(kF32, at), hidden));
      });
    });
  });
}

// m, l and the corrections of a vector of queries, given the new m and the sums of this tile.
void AttendEmitter::Renew(Int first, Vec m, Vec sum) {
  const Vec correction = EmitExpBelowZero(b_, b_.Sub(b_.Load(kF32, At(maxima_, first)), m));
  b_.Store(kF32, At(maxima_, first), m);
  b_.Store(kF32, At(corrections_, first), correction);
  b_.Store(kF32, At(sums_, first), b_.Fma(b_.Load(kF32, At(sums_, first)), correction, sum));
}

// outputs_ = outputs_ * correction + p v, in tiles of queries by columns: positions that all see, then masked ones.
void AttendEmitter::Values(Int s, Int n, Int clear) {
  const int registers = b_.target().registers;
  const int queries = spec_.wide ? registers / 4 : static_cast<int>(spec_.heads);
  int columns = 2;  // vectors
  while (!spec_.wide && columns < 4 && 2 * columns * (queries + 1) + 3 <= registers) columns *= 2;
  if (!spec_.wide && columns * (queries + 1) + 3 > registers) columns = 1;
  while (columns > 1 && columns * lanes_ > spec_.value_width) columns /= 2;
  const Ptr values = b_.Offset(v_, spec_.v.dtype, b_.Mul(s, Stride(spec_.v, batch_)));
  const int64_t wide = int64_t{columns} * lanes_, whole = spec_.value_width / wide * wide;
  b_.For(b_.Const(0), count_, queries, {}, [&](Int query) {
    b_.For(b_.Const(0), b_.Const(whole), wide, {},
           [&](Int e) { ValueTile(values, query, e, queries, columns, nullptr, n, clear); });
    b_.For(b_.Const(whole), b_.Const(spec_.value_width), lanes_, {}, [&](Int e) {
      const Mask mask = b_.FirstLanes(b_.Sub(b_.Const(spec_.value_width), e));
      const bool ragged = spec_.value_width % lanes_ != 0;
      ValueTile(values, query, e, queries, 1, ragged ? &mask : nullptr, n, clear);
    });
  });
}

void AttendEmitter::ValueTile(Ptr values, Int query, Int e, int queries, int columns, const Mask* mask, Int n,
                              Int clear) {
  std::vector<Vec> c;
  const Ptr outputs = At(outputs_, b_.Add(Times(query, spec_.value_pitch()), e));
  const auto place = [&](int i, int v) { return At(outputs, b_.Const(i * spec_.value_pitch() + v * lanes_)); };
  for (int i = 0; i < queries; ++i) {
    const Vec correction = b_.LoadSplat(kF32, At(corrections_, Plus(query, i)));
    for (int v = 0; v < columns; ++v) c.push_back(b_.Mul(b_.Load(kF32, place(i, v)), correction));
  }
  // Of a quantized row the block in which column e lies, and where in it.
  const int64_t block = Info(spec_.v.dtype).block_elems;
  const Int within = columns * lanes_ % block == 0 ? b_.Const(0) : b_.Rem(e, b_.Const(block));
  Ptr row = b_.Offset(values, spec_.v.dtype, block > 1 ? b_.Sub(e, within) : e), p = At(scores_, query);
  std::vector<Handle*> carried = Carry(c);
  carried.push_back(&row);
  carried.push_back(&p);
  const Vec zero = b_.Splat(0);
  const auto add = [&](Int first, Int end, bool masked) {
    b_.For(first, end, 1, carried, [&](Int) {
      std::vector<Vec> x;
      FetchAhead(spec_.v.dtype, row, columns * lanes_);
      for (int v = 0; v < columns; ++v) {
        const Int at = b_.Const(v * lanes_);
        const bool in_one = columns * lanes_ < block;  // the columns of the tile lie in one block
        x.push_back(in_one ? b_.LoadOfBlock(row, b_.Add(within, at)) : LoadRow(spec_.v.dtype, row, at, mask));
      }
      for (int i = 0; i < queries; ++i) {
        const Vec weight = b_.LoadSplat(kF32, At(p, b_.Const(i)));
        for (int v = 0; v < columns; ++v) {
          Vec& sum = c[static_cast<size_t>(i * columns + v)];
          Vec value = x[static_cast<size_t>(v)];
          // Not seen: zero, whatever lies there. A weight that is NaN meets a zero and stays NaN.
          if (masked) value = b_.Select(b_.LessThan(zero, weight), value, zero);
          sum = b_.Fma(weight, value, sum);
        }
      }
      row = b_.Offset(row, spec_.v.dtype, Stride(spec_.v, batch_));
      p = At(p, b_.Const(spec_.pitch()));
    });
  };
  const bool any_masked = spec_.mask || spec_.has_scores;  // by a mask, or by a score of -inf
  const bool some_masked = any_masked || (spec_.wide && spec_.pos);
  if (!any_masked) add(b_.Const(0), some_masked ? clear : n, false);
  if (some_masked) add(any_masked ? b_.Const(0) : clear, n, true);
  for (int i = 0; i < queries; ++i) {
    for (int v = 0; v < columns; ++v) b_.Store(kF32, place(i, v), c[static_cast<size_t>(i * columns + v)]);
  }
}

// o / l; a query that sees nothing has l = 0 and o = 0.
void AttendEmitter::Finish() {
  if (!spec_.wide) b_.Store(kF32, sums_, b_.ReduceAdd(b_.Load(kF32, sums_), spec_.pitch()));
  if (spec_.weight) {
    b_.For(b_.Const(0), b_.Const(spec_.queries()), lanes_, {}, [&](Int i) {
      b_.Store(kF32, At(corrections_, i),
               b_.Add(b_.Load(kF32, At(maxima_, i)), EmitLog(b_, b_.Load(kF32, At(sums_, i)))));
    });
  }
  ForQueries([&](Int t, Int h, Int query) {
    if (spec_.weight) {
      const Ptr to = b_.Offset(weight_, kF32, Away(*spec_.weight, t, h));
      b_.StoreFirst(kF32, to, b_.LoadSplat(kF32, At(corrections_, query)));
    }
    const Ptr from = At(outputs_, Times(query, spec_.value_pitch()));
    const DType stored = spec_.out.dtype;
    const Ptr to = b_.Offset(out_, stored, Away(spec_.out, t, h));
    const Vec sum = Larger(b_.LoadSplat(kF32, At(sums_, query)), b_.Splat(FLT_MIN));
    if (IsQuantized(stored)) {
      const int64_t block = Info(stored).block_elems;
      return b_.For(b_.Const(0), b_.Const(spec_.value_width), block, {}, [&](Int e) {
        std::vector<Vec> values;
        for (int64_t i = 0; i < block; i += lanes_) values.push_back(b_.Div(b_.Load(kF32, At(from, Plus(e, i))), sum));
        b_.StoreBlock(stored, b_.Offset(to, stored, e), values);
      });
    }
    ForVectors(spec_.value_width, {}, [&](Int e, const Mask* mask) {
      b_.Store(stored, b_.Offset(to, stored, e), b_.Div(b_.Load(kF32, At(from, e)), sum), mask);
    });
  });
}

void EmitAttend(const KernelSpec& spec, VectorBuilder& b) { AttendEmitter(spec, b).Emit(); }

}  // namespace sinter
