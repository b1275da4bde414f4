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
constexpr int64_t kPitch = AttendSpec::kMaxQueries;  // of what lies [..][query], where queries are many

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
    at_once_ = spec_.wide ? 1 : lanes_ / spec_.pitch();
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
  // Lanes from element `at` on of a row of keys or values that begins a block.
  Vec LoadRow(DType dtype, Ptr row, Int at, const Mask* mask) {
    if (!IsQuantized(dtype)) return b_.Load(dtype, b_.Offset(row, dtype, at), mask);
    const int64_t block = Info(dtype).block_elems;
    int64_t known;
    const bool is_known = b_.IsConst(at, &known);
    return b_.LoadOfBlock(b_.Offset(row, dtype, at), is_known ? b_.Const(known % block) : b_.Rem(at, b_.Const(block)));
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
    if (spec_.wide) {
      TurnQueries();
    } else {
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
        ScoresOfFew(s, n);
        if (spec_.mask) MaskScores(s, n, clear);
        SoftmaxOfFew(n);
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
  void ForVectors(int64_t width, const std::vector<Handle*>& carried, const std::function<void(Int, const Mask*)>& body,
                  int64_t unrolled = kUnrolled) {
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
          b_.Store(kF32, At(to, d), LoadRow(spec_.k.dtype, from, d, mask), mask);
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

  // m, l and the corrections of a vector of queries, given the new m and the sums of this tile.
  void Renew(Int first, Vec m, Vec sum) {
    const Vec correction = EmitExp(b_, b_.Sub(b_.Load(kF32, At(maxima_, first)), m));
    b_.Store(kF32, At(maxima_, first), m);
    b_.Store(kF32, At(corrections_, first), correction);
    b_.Store(kF32, At(sums_, first), b_.Fma(b_.Load(kF32, At(sums_, first)), correction, sum));
  }

  // ---- Few queries, along their width ----

  // Where many heads share a row so much is computed with it that the CPU looks too short a way ahead by itself; with
  // fewer heads it needs no help.
  void FetchAhead(DType dtype, Ptr row, int64_t elements) {
    constexpr int64_t kHeads = 5, kAheadBytes = 4096, kLineBytes = 64;
    if (spec_.wide || spec_.heads < kHeads) return;
    const DTypeInfo& info = Info(dtype);
    const int64_t bytes = elements * info.block_bytes / info.block_elems;
    for (int64_t i = 0; i < bytes; i += kLineBytes) {
      b_.Prefetch(b_.Offset(row, DType::kI8, b_.Const(kAheadBytes + i)));
    }
  }

  // queries_[query][d] = scale * q, zeros past the width.
  void CopyQueries() {
    ForQueries([&](Int t, Int h, Int query) {
      const Ptr from = At(q_, Away(spec_.q, t, h)), to = At(queries_, Times(query, spec_.key_pitch()));
      ForVectors(spec_.key_width, {}, [&](Int d, const Mask* mask) {
        b_.Store(kF32, At(to, d), b_.Mul(b_.Load(kF32, At(from, d), mask), b_.Splat(spec_.scale)));
      });
    });
  }

  // scores_[position][query], and -inf in the lanes past the last position.
  void ScoresOfFew(Int s, Int n) {
    const Ptr keys = b_.Offset(k_, spec_.k.dtype, b_.Mul(s, Stride(spec_.k, batch_)));
    if (spec_.heads > 2) {
      ScoresTogether(keys, n);
    } else {
      ScoresInTurn(keys, n);
    }
    const Int rest = b_.Rem(n, b_.Const(at_once_));
    const Ptr last = At(scores_, Times(b_.Sub(n, rest), spec_.pitch()));
    b_.If(b_.Less(b_.Const(0), rest), [&] {
      const Mask seen = b_.FirstLanes(Times(rest, spec_.pitch()));
      b_.Store(kF32, last, b_.Select(seen, b_.Load(kF32, last), b_.Splat(-kInf)));
    });
  }

  // sums[i * heads + h] += the products of key i and query h, lane by lane.
  void AddProducts(const std::vector<Ptr>& keys, std::vector<Vec>& sums) {
    const auto heads = static_cast<size_t>(spec_.heads);
    const auto add = [&](Int d, const Mask* mask) {
      std::vector<Vec> x;
      for (const Ptr& key : keys) x.push_back(LoadRow(spec_.k.dtype, key, d, mask));
      for (size_t h = 0; h < heads; ++h) {
        const Vec q = b_.Load(kF32, At(queries_, Plus(d, static_cast<int64_t>(h) * spec_.key_pitch())));
        for (size_t i = 0; i < keys.size(); ++i) sums[i * heads + h] = b_.Fma(x[i], q, sums[i * heads + h]);
      }
    };
    // In a straight line, code generation would bring forward more loads than there are registers for.
    ForVectors(spec_.key_width, Carry(sums), add, keys.size() > 1 ? 2 : kUnrolled);
  }

  // As many dot products as a vector has lanes at once. Past the last position the last key is read again.
  void ScoresTogether(Ptr keys, Int n) {
    const auto heads = static_cast<size_t>(spec_.heads), pitch = static_cast<size_t>(spec_.pitch());
    const Int key_pitch = Stride(spec_.k, batch_), last = Plus(n, -1);
    b_.For(b_.Const(0), n, at_once_, {}, [&](Int position) {
      std::vector<Ptr> some;
      for (int64_t i = 0; i < at_once_; ++i) {
        const Int at = i == 0 ? position : b_.Min(Plus(position, i), last);
        some.push_back(b_.Offset(keys, spec_.k.dtype, b_.Mul(at, key_pitch)));
        FetchAhead(spec_.k.dtype, some.back(), spec_.key_width);
      }
      std::vector<Vec> sums(some.size() * heads, b_.Splat(0)), rows(static_cast<size_t>(lanes_), b_.Splat(0));
      AddProducts(some, sums);
      for (size_t i = 0; i < some.size(); ++i) {
        for (size_t h = 0; h < heads; ++h) rows[i * pitch + h] = sums[i * heads + h];
      }
      b_.Store(kF32, At(scores_, Times(position, spec_.pitch())), b_.ReduceAddRows(std::move(rows)));
    });
  }

  // One position after the other, as they lie in memory, which the CPU fetches best; of one or two queries it is memory
  // that takes the time.
  void ScoresInTurn(Ptr keys, Int n) {
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
  void SoftmaxOfFew(Int n) {
    Vec m = b_.Load(kF32, maxima_);
    b_.For(b_.Const(0), n, at_once_, {&m},
           [&](Int i) { m = Larger(m, b_.Load(kF32, At(scores_, Times(i, spec_.pitch())))); });
    m = b_.ReduceMax(m, spec_.pitch());
    Vec sum = b_.Splat(0);
    b_.For(b_.Const(0), n, at_once_, {&sum}, [&](Int i) {
      const Ptr place = At(scores_, Times(i, spec_.pitch()));
      const Vec p = EmitExp(b_, b_.Sub(b_.Load(kF32, place), m));
      b_.Store(kF32, place, p);
      sum = b_.Add(sum, p);
    });
    Renew(b_.Const(0), m, sum);
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
    const bool some_masked = spec_.mask || (spec_.wide && spec_.pos);
    if (!spec_.mask) add(b_.Const(0), some_masked ? clear : n, false);
    if (some_masked) add(spec_.mask ? b_.Const(0) : clear, n, true);
    for (int i = 0; i < queries; ++i) {
      for (int v = 0; v < columns; ++v) b_.Store(kF32, place(i, v), c[static_cast<size_t>(i * columns + v)]);
    }
  }

  // o / l; a query that sees nothing has l = 0 and o = 0.
  void Finish() {
    if (!spec_.wide) b_.Store(kF32, sums_, b_.ReduceAdd(b_.Load(kF32, sums_), spec_.pitch()));
    ForQueries([&](Int t, Int h, Int query) {
      const Ptr from = At(outputs_, Times(query, spec_.value_pitch()));
      const DType stored = spec_.out.dtype;
      const Ptr to = b_.Offset(out_, stored, Away(spec_.out, t, h));
      const Vec sum = Larger(b_.LoadSplat(kF32, At(sums_, query)), b_.Splat(FLT_MIN));
      if (IsQuantized(stored)) {
        const int64_t block = Info(stored).block_elems;
        return b_.For(b_.Const(0), b_.Const(spec_.value_width), block, {}, [&](Int e) {
          std::vector<Vec> values;
          for (int64_t i = 0; i < block; i += lanes_)
            values.push_back(b_.Div(b_.Load(kF32, At(from, Plus(e, i))), sum));
          b_.StoreBlock(stored, b_.Offset(to, stored, e), values);
        });
      }
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
  int64_t at_once_ = 1;                                           // positions in a vector of scores of few queries
  Ptr queries_, scores_, outputs_, maxima_, sums_, corrections_;  // in scratch
  Ptr q_, k_, v_, out_, pos_, mask_;                              // of the grain
  Int rows_, heads_, count_, all_see_, end_;
};

}  // namespace

void EmitAttend(const KernelSpec& spec, VectorBuilder& b) { AttendEmitter(spec, b).Emit(); }

}  // namespace sinter
