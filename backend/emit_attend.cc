// Family attend: softmax(scale * q k^T, mask) v without the matrix of scores. For each grain (some queries of one group
// of heads) the positions pass by in tiles; of each query are kept the largest score m so far, the sum l of exp(score -
// m) and the sum o of exp(score - m) * v, which a larger m corrects by exp(m_old - m):
//   m' = max(m, scores)   l' = l * exp(m - m') + sum exp(score - m')   o' = o * exp(m - m') + sum exp(score - m') * v
// and o / l is the result. Source: M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018; T. Dao
// et al., "FlashAttention", 2022.
//
// Many queries lie side by side in lanes: scores [position][query] are an outer product of keys and turned queries, and
// maxima and sums need no reduction. Few queries (a step of one row) lie along their width: each score is a dot
// product, and scores [query][position] are reduced by rows. Both add their values by the same tiles of queries by
// columns. Positions past what any query of the grain sees are never touched; those that only some see are masked
// by scores of -inf, and their values by zeros, so that no NaN of theirs counts.
//
// Every sum is taken in the order of positions and of tiles that begin at multiples of a fixed size.
#include <algorithm>
#include <cfloat>
#include <limits>

#include "backend/emit.h"
#include "backend/math.h"

namespace sinter {
namespace {

constexpr DType kF32 = DType::kF32;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int64_t kPitch = AttendSpec::kMaxQueries;  // of what lies [..][query]

class AttendEmitter {
 public:
  AttendEmitter(const KernelSpec& kernel, VectorBuilder& b)
      : kernel_(kernel),
        spec_(*kernel.attend),
        b_(b),
        lanes_(b.lanes()),
        positions_(b.Dim(spec_.s)),
        batch_(spec_.batch.size()) {
    queries_ = Part(0);
    scores_ = Part(spec_.scores_at());
    outputs_ = Part(spec_.outputs_at());
    maxima_ = Part(spec_.rows_at());
    sums_ = Part(spec_.rows_at() + spec_.queries());
    corrections_ = Part(spec_.rows_at() + 2 * spec_.queries());
    row_pitch_ = spec_.wide ? 1 : spec_.tile();
    position_pitch_ = spec_.wide ? kPitch : 1;
    const int64_t most = spec_.heads * spec_.rows;
    vectors_ = most > lanes_ ? 2 : 1;
  }

  void Emit() {
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
      index.push_back(t);
      q_ = AddressOf(b_, spec_.q, index);
      out_ = AddressOf(b_, spec_.out, index);
      if (spec_.pos) pos_ = AddressOf(b_, *spec_.pos, index);
      if (spec_.mask) mask_ = AddressOf(b_, *spec_.mask, index);
      count_ = b_.Mul(rows_, heads_);
      Grain();
    });
  }

 private:
  Ptr Part(int64_t floats) { return At(b_.Scratch(), b_.Const(floats)); }
  Ptr At(Ptr base, Int floats) { return b_.Offset(base, kF32, floats); }
  Int Times(Int a, int64_t n) { return b_.Mul(a, b_.Const(n)); }
  Int Plus(Int a, int64_t n) { return b_.Add(a, b_.Const(n)); }
  Int Stride(const Access& access, size_t axis) { return b_.Dim(access.strides[axis]); }
  // Where an access of row t and head h of the grain is away from its first.
  Int Away(const Access& access, Int t, Int h) {
    const Int rows = b_.Mul(t, Stride(access, batch_));
    return batch_ > 0 ? b_.Add(rows, b_.Mul(h, Stride(access, batch_ - 1))) : rows;
  }
  // Queries of a grain: row t, head h, query t * heads + h.
  void ForQueries(const std::function<void(Int t, Int h, Int query)>& body) {
    b_.For(b_.Const(0), rows_, 1, {}, [&](Int t) {
      const Int first = b_.Mul(t, heads_);
      b_.For(b_.Const(0), heads_, 1, {}, [&](Int h) { body(t, h, b_.Add(first, h)); });
    });
  }
  // How many positions row t sees.
  Int Limit(Int t) {
    const Ptr at = b_.Offset(pos_, spec_.pos->dtype, b_.Mul(t, Stride(*spec_.pos, batch_)));
    const Int last = b_.Min(b_.LoadIndex(spec_.pos->dtype, at), Plus(positions_, -1));
    return b_.Max(Plus(last, 1), b_.Const(0));
  }

  void Grain() {
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
    if (spec_.wide) TurnQueries();
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
        ScoresOfFew(s, n);
        SoftmaxOfFew(s, n);
      }
      Values(s, n, clear);
    });
    Finish();
  }

  void Fill(Ptr at, int64_t floats, double value) {
    b_.For(b_.Const(0), b_.Const(floats), lanes_, {}, [&](Int i) { b_.Store(kF32, At(at, i), b_.Splat(value)); });
  }

  // Vectors of a row of `width` elements: whole ones, one after the other while they are few, then a masked one.
  static constexpr int64_t kUnrolled = 16;
  void ForVectors(int64_t width, const std::vector<Handle*>& carried,
                  const std::function<void(Int, const Mask*)>& body) {
    const int64_t whole = width / lanes_ * lanes_;
    if (whole <= kUnrolled * lanes_) {
      for (int64_t at = 0; at < whole; at += lanes_) body(b_.Const(at), nullptr);
    } else {
      b_.For(b_.Const(0), b_.Const(whole), lanes_, carried, [&](Int at) { body(at, nullptr); });
    }
    if (whole == width) return;
    const Mask mask = b_.FirstLanes(b_.Const(width - whole));
    body(b_.Const(whole), &mask);
  }

  // ---- Many queries, in lanes ----

  // queries_[d][query] = scale * q; zeros where there is no query, so that no lane computes with what lay there.
  void TurnQueries() {
    Fill(queries_, spec_.key_width * kPitch, 0);
    const Vec scale = b_.Splat(spec_.scale);
    ForQueries([&](Int t, Int h, Int query) {
      const Ptr from = b_.Offset(q_, kF32, Away(spec_.q, t, h)), to = At(queries_, query);
      constexpr int64_t kUnroll = 4;
      const int64_t whole = spec_.key_width / kUnroll * kUnroll;
      const auto move = [&](Int d, int64_t count) {
        const Ptr source = At(from, d), place = At(to, Times(d, kPitch));
        for (int64_t i = 0; i < count; ++i) {
          const Vec x = b_.LoadSplat(kF32, At(source, b_.Const(i)));
          b_.StoreFirst(kF32, At(place, b_.Const(i * kPitch)), b_.Mul(x, scale));
        }
      };
      b_.For(b_.Const(0), b_.Const(whole), kUnroll, {}, [&](Int d) { move(d, kUnroll); });
      move(b_.Const(whole), spec_.key_width - whole);
    });
  }

  // scores_[position][query], by tiles of kKeys positions and vectors_ vectors of queries. Past the last position the
  // last one is read again.
  void ScoresOfMany(Int s, Int n) {
    constexpr int kKeys = 6;
    Ptr keys = b_.Offset(k_, spec_.k.dtype, b_.Mul(s, Stride(spec_.k, batch_)));
    Int pitch = Stride(spec_.k, batch_);
    if (spec_.copies_keys()) {
      const Ptr copy = Part(spec_.keys_at());
      const int64_t copy_pitch = AlignUp(spec_.key_width, AttendSpec::kAlign);
      b_.For(b_.Const(0), n, 1, {}, [&](Int i) {
        const Ptr from = b_.Offset(keys, spec_.k.dtype, b_.Mul(i, pitch)), to = At(copy, Times(i, copy_pitch));
        ForVectors(spec_.key_width, {}, [&](Int d, const Mask* mask) {
          b_.Store(kF32, At(to, d), b_.Load(spec_.k.dtype, b_.Offset(from, spec_.k.dtype, d), mask), mask);
        });
      });
      keys = copy;
      pitch = b_.Const(copy_pitch);
    }
    const Int last = Plus(n, -1);
    b_.For(b_.Const(0), count_, vectors_ * lanes_, {}, [&](Int query) {
      b_.For(b_.Const(0), n, kKeys, {}, [&](Int first) {
        std::vector<Ptr> rows;
        for (int i = 0; i < kKeys; ++i) rows.push_back(At(keys, b_.Mul(b_.Min(Plus(first, i), last), pitch)));
        std::vector<Vec> c(static_cast<size_t>(kKeys * vectors_), b_.Splat(0));
        Ptr turned = At(queries_, query);
        std::vector<Handle*> carried = Carry(c);
        carried.push_back(&turned);
        b_.For(b_.Const(0), b_.Const(spec_.key_width), 1, carried, [&](Int d) {
          std::vector<Vec> q;
          for (int v = 0; v < vectors_; ++v) q.push_back(b_.Load(kF32, At(turned, b_.Const(v * lanes_))));
          for (int i = 0; i < kKeys; ++i) {
            const Vec key = b_.LoadSplat(kF32, At(rows[static_cast<size_t>(i)], d));
            for (int v = 0; v < vectors_; ++v) {
              Vec& sum = c[static_cast<size_t>(i * vectors_ + v)];
              sum = b_.Fma(key, q[static_cast<size_t>(v)], sum);
            }
          }
          turned = At(turned, b_.Const(kPitch));
        });
        const Ptr to = At(scores_, b_.Add(Times(first, kPitch), query));
        for (int i = 0; i < kKeys; ++i) {
          for (int v = 0; v < vectors_; ++v) {
            b_.Store(kF32, At(to, b_.Const(i * kPitch + v * lanes_)), c[static_cast<size_t>(i * vectors_ + v)]);
          }
        }
      });
    });
  }

  // -inf where a query does not see a position.
  void MaskScores(Int s, Int n, Int clear) {
    const Vec hidden = b_.Splat(-kInf);
    b_.If(b_.Less(clear, n), [&] {
      ForQueries([&](Int t, Int h, Int query) {
        const Ptr column = At(scores_, query);
        if (spec_.pos) {
          const Int first = b_.Max(b_.Sub(Limit(t), s), b_.Const(0));
          b_.For(first, n, 1, {}, [&](Int i) { b_.StoreFirst(kF32, At(column, Times(i, kPitch)), hidden); });
          return;
        }
        const Int stride = Stride(*spec_.mask, batch_ + 1);
        const Ptr row = b_.Offset(mask_, DType::kBool, b_.Add(Away(*spec_.mask, t, h), b_.Mul(s, stride)));
        b_.For(b_.Const(0), n, 1, {}, [&](Int i) {
          const Ptr at = At(column, Times(i, kPitch));
          const Mask seen = b_.LoadMaskSplat(b_.Offset(row, DType::kBool, b_.Mul(i, stride)));
          b_.StoreFirst(kF32, at, b_.Select(seen, b_.LoadSplat(kF32, at), hidden));
        });
      });
    });
  }

  // The larger of two; NaN in `b` is passed over (its exp will show it).
  Vec Larger(Vec a, Vec b) { return b_.Select(b_.LessThan(a, b), b, a); }

  // Scores become exp(score - m); m, l and the correction of each query.
  void SoftmaxOfMany(Int n) {
    const int all = static_cast<int>(std::min<int64_t>(kPitch, spec_.heads * spec_.rows) + lanes_ - 1) / lanes_;
    std::vector<Vec> largest;
    for (int v = 0; v < all; ++v) largest.push_back(b_.Load(kF32, At(maxima_, b_.Const(v * lanes_))));
    b_.For(b_.Const(0), n, 1, Carry(largest), [&](Int i) {
      const Ptr row = At(scores_, Times(i, kPitch));
      for (int v = 0; v < all; ++v) {
        Vec& m = largest[static_cast<size_t>(v)];
        m = Larger(m, b_.Load(kF32, At(row, b_.Const(v * lanes_))));
      }
    });
    // The corrections hold the new maxima until they are made.
    for (int v = 0; v < all; ++v) {
      b_.Store(kF32, At(corrections_, b_.Const(v * lanes_)), largest[static_cast<size_t>(v)]);
    }
    const int at_once = std::min(all, b_.target().registers / 16);
    b_.For(b_.Const(0), count_, at_once * lanes_, {}, [&](Int first) {
      std::vector<Vec> m, sums(static_cast<size_t>(at_once), b_.Splat(0));
      for (int v = 0; v < at_once; ++v) m.push_back(b_.Load(kF32, At(corrections_, Plus(first, v * lanes_))));
      const Ptr column = At(scores_, first);
      b_.For(b_.Const(0), n, 1, Carry(sums), [&](Int i) {
        for (int v = 0; v < at_once; ++v) {
          const auto index = static_cast<size_t>(v);
          const Ptr place = At(column, Plus(Times(i, kPitch), v * lanes_));
          const Vec p = EmitExp(b_, b_.Sub(b_.Load(kF32, place), m[index]));
          b_.Store(kF32, place, p);
          sums[index] = b_.Add(sums[index], p);
        }
      });
      for (int v = 0; v < at_once; ++v) {
        const auto index = static_cast<size_t>(v);
        Renew(Plus(first, v * lanes_), m[index], sums[index]);
      }
    });
  }

  // m, l and the corrections of the queries from `first` on, given the new m and the sums of this tile. `one`: of the
  // first alone.
  void Renew(Int first, Vec m, Vec sum, bool one = false) {
    const auto load = [&](Ptr part) {
      return one ? b_.LoadSplat(kF32, At(part, first)) : b_.Load(kF32, At(part, first));
    };
    const auto store = [&](Ptr part, Vec x) {
      one ? b_.StoreFirst(kF32, At(part, first), x) : b_.Store(kF32, At(part, first), x);
    };
    const Vec correction = EmitExp(b_, b_.Sub(load(maxima_), m));
    store(maxima_, m);
    store(corrections_, correction);
    store(sums_, b_.Fma(load(sums_), correction, sum));
  }

  // ---- Few queries, along their width ----

  // scores_[query][position]: dot products, one position after the other, as they lie in memory.
  void ScoresOfFew(Int s, Int n) {
    const auto queries = static_cast<size_t>(spec_.heads);
    const Int pitch = Stride(spec_.k, batch_);
    std::vector<Ptr> q;
    for (int64_t h = 0; h < spec_.heads; ++h) q.push_back(At(q_, Away(spec_.q, b_.Const(0), b_.Const(h))));
    Ptr key = b_.Offset(k_, spec_.k.dtype, b_.Mul(s, pitch));
    b_.For(b_.Const(0), n, 1, {&key}, [&](Int position) {
      std::vector<Vec> sums(queries, b_.Splat(0));
      const auto add = [&](Int d, const Mask* mask) {
        const Vec x = b_.Load(spec_.k.dtype, b_.Offset(key, spec_.k.dtype, d), mask);
        for (size_t h = 0; h < queries; ++h) sums[h] = b_.Fma(x, b_.Load(kF32, At(q[h], d), mask), sums[h]);
      };
      ForVectors(spec_.key_width, Carry(sums), add);
      for (size_t h = 0; h < queries; ++h) {
        const Int at = Plus(position, static_cast<int64_t>(h) * spec_.tile());
        b_.StoreFirst(kF32, At(scores_, at), b_.ReduceAdd(sums[h]));
      }
      key = b_.Offset(key, spec_.k.dtype, pitch);
    });
  }

  void SoftmaxOfFew(Int s, Int n) {
    b_.For(b_.Const(0), b_.Const(spec_.heads), 1, {}, [&](Int h) {
      const Ptr row = At(scores_, Times(h, spec_.tile()));
      Vec m = b_.LoadSplat(kF32, At(maxima_, h));
      b_.For(b_.Const(0), n, lanes_, {&m}, [&](Int i) {
        Mask seen = b_.FirstLanes(b_.Sub(n, i));
        const Vec x = b_.Mul(b_.Load(kF32, At(row, i)), b_.Splat(spec_.scale));
        if (spec_.mask) {
          const DimExpr& stride = spec_.mask->strides.back();
          const Int at = b_.Add(Away(*spec_.mask, b_.Const(0), h), b_.Mul(b_.Add(s, i), b_.Dim(stride)));
          const Ptr bools = b_.Offset(mask_, DType::kBool, at);
          seen = b_.And(seen, stride.is_one() ? b_.LoadMask(bools, &seen) : b_.LoadMaskSplat(bools));
        }
        const Vec score = b_.Select(seen, x, b_.Splat(-kInf));
        b_.Store(kF32, At(row, i), score);
        m = Larger(m, score);
      });
      m = b_.ReduceMax(m);
      Vec sum = b_.Splat(0);
      b_.For(b_.Const(0), n, lanes_, {&sum}, [&](Int i) {
        const Vec p = EmitExp(b_, b_.Sub(b_.Load(kF32, At(row, i)), m));
        b_.Store(kF32, At(row, i), p);
        sum = b_.Add(sum, p);
      });
      Renew(h, m, b_.ReduceAdd(sum), true);
    });
  }

  // ---- Both ----

  // outputs_ = outputs_ * correction + p v, in tiles of queries by columns: positions that all see, then masked ones.
  void Values(Int s, Int n, Int clear) {
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

  void ValueTile(Ptr values, Int query, Int e, int queries, int columns, const Mask* mask, Int n, Int clear) {
    std::vector<Vec> c;
    const Ptr outputs = At(outputs_, b_.Add(Times(query, spec_.value_pitch()), e));
    const auto place = [&](int i, int v) { return At(outputs, b_.Const(i * spec_.value_pitch() + v * lanes_)); };
    for (int i = 0; i < queries; ++i) {
      const Vec correction = b_.LoadSplat(kF32, At(corrections_, Plus(query, i)));
      for (int v = 0; v < columns; ++v) c.push_back(b_.Mul(b_.Load(kF32, place(i, v)), correction));
    }
    Ptr row = b_.Offset(values, spec_.v.dtype, e), p = At(scores_, Times(query, row_pitch_));
    std::vector<Handle*> carried = Carry(c);
    carried.push_back(&row);
    carried.push_back(&p);
    const Vec zero = b_.Splat(0);
    const auto add = [&](Int first, Int end, bool masked) {
      b_.For(first, end, 1, carried, [&](Int) {
        std::vector<Vec> x;
        for (int v = 0; v < columns; ++v)
          x.push_back(b_.Load(spec_.v.dtype, b_.Offset(row, spec_.v.dtype, b_.Const(v * lanes_)), mask));
        for (int i = 0; i < queries; ++i) {
          const Vec weight = b_.LoadSplat(kF32, At(p, b_.Const(i * row_pitch_)));
          for (int v = 0; v < columns; ++v) {
            Vec& sum = c[static_cast<size_t>(i * columns + v)];
            Vec value = x[static_cast<size_t>(v)];
            // Not seen: zero, whatever lies there. A weight that is NaN meets a zero and stays NaN.
            if (masked) value = b_.Select(b_.LessThan(zero, weight), value, zero);
            sum = b_.Fma(weight, value, sum);
          }
        }
        row = b_.Offset(row, spec_.v.dtype, Stride(spec_.v, batch_));
        p = At(p, b_.Const(position_pitch_));
      });
    };
    const bool some_masked = spec_.mask || (spec_.wide && spec_.pos);
    if (!spec_.mask) add(b_.Const(0), some_masked ? clear : n, false);
    if (some_masked) add(spec_.mask ? b_.Const(0) : clear, n, true);
    for (int i = 0; i < queries; ++i) {
      for (int v = 0; v < columns; ++v) b_.Store(kF32, place(i, v), c[static_cast<size_t>(i * columns + v)]);
    }
  }

  // o / l; a query that sees nothing has l = 0 and o = 0.
  void Finish() {
    ForQueries([&](Int t, Int h, Int query) {
      const Ptr from = At(outputs_, Times(query, spec_.value_pitch()));
      const DType stored = spec_.out.dtype;
      const Ptr to = b_.Offset(out_, stored, Away(spec_.out, t, h));
      const Vec sum = Larger(b_.LoadSplat(kF32, At(sums_, query)), b_.Splat(FLT_MIN));
      ForVectors(spec_.value_width, {}, [&](Int e, const Mask* mask) {
        b_.Store(stored, b_.Offset(to, stored, e), b_.Div(b_.Load(kF32, At(from, e)), sum), mask);
      });
    });
  }

  const KernelSpec& kernel_;
  const AttendSpec& spec_;
  VectorBuilder& b_;
  const int lanes_;
  const Int positions_;
  const size_t batch_;
  int vectors_ = 1;                                               // of queries, in a tile of scores
  int64_t row_pitch_ = 1, position_pitch_ = 1;                    // of scores_
  Ptr queries_, scores_, outputs_, maxima_, sums_, corrections_;  // in scratch
  Ptr q_, k_, v_, out_, pos_, mask_;                              // of the grain
  Int rows_, heads_, count_, all_see_, end_;
};

}  // namespace

void EmitAttend(const KernelSpec& spec, VectorBuilder& b) { AttendEmitter(spec, b).Emit(); }

}  // namespace sinter
