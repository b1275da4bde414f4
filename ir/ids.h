// Ids of values, ops, graphs and dim symbols: distinct wrappers of an integer, and a vector that only the right id can
// index.
//
// A graph owns its ops and values in IdMaps; an id stays valid as long as its graph lives, and is never reused.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace sinter {

template <typename Tag>
struct Id {
  static constexpr uint32_t kNone = UINT32_MAX;

  uint32_t value = kNone;

  static constexpr Id None() { return Id{}; }
  constexpr bool valid() const { return value != kNone; }
  friend constexpr auto operator<=>(Id, Id) = default;  // NOLINT(modernize-use-nullptr)

  template <typename H>
  friend H AbslHashValue(H h, Id id) {
    return H::combine(std::move(h), id.value);
  }
};

using ValueId = Id<struct ValueTag>;
using OpId = Id<struct OpTag>;
using GraphId = Id<struct GraphTag>;
using DimId = Id<struct DimTag>;

// A vector indexed by one kind of id. A reference to an element is valid until the next Add, or, where the items are a
// std::deque, as long as the table lives.
template <typename I, typename T, typename Items = std::vector<T>>
class IdMap {
 public:
  I Add(T value) {
    items_.push_back(std::move(value));
    return I{static_cast<uint32_t>(items_.size() - 1)};
  }
  T& operator[](I id) { return items_[id.value]; }
  const T& operator[](I id) const { return items_[id.value]; }
  bool Has(I id) const { return id.value < items_.size(); }
  size_t size() const { return items_.size(); }
  void Resize(size_t n) { items_.resize(n); }
  auto begin() { return items_.begin(); }
  auto end() { return items_.end(); }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }

 private:
  Items items_;
};

}  // namespace sinter
