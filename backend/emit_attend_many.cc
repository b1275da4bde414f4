// Scores and weights of a tile of positions for many queries, which lie side by side in lanes.
#include <algorithm>

#include "backend/attend_emitter.h"
#include "backend/math.h"

namespace sinter {

// queries_[d][query] = scale * q; zeros where there is no query, so that no lane computes with what lay there.
void AttendEmitter::TurnQueries() {
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
void AttendEmitter::ScoresOfMany(Int s, Int n) {
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

// Scores become exp(score - m); m, l and the correction of each query.
void AttendEmitter::SoftmaxOfMany(Int n) {
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
        const Vec p = EmitExpBelowZero(b_, b_.Sub(b_.Load(kF32, place), m[index]));
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

}  // namespace sinter
