#include "ir/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "ir/text.h"

namespace sinter {
namespace {

// The canonical text: values by number in the order of their making, dims by the names of their symbols, doubles by
// their bits, strings with their lengths, graphs by their hashes.
class Hasher {
 public:
  uint64_t Hash(const Graph& graph) {
    const auto [it, inserted] =
        hashes_.emplace(graph.id(), 0);  // 0 for a graph that names itself, which Verify refuses
    if (!inserted) return it->second;
    absl::flat_hash_map<ValueId, size_t> numbers;
    std::string text;
    const auto define = [&](ValueId id) {
      const size_t number = numbers.size();
      numbers[id] = number;
      absl::StrAppend(&text, ToString(graph.type(id), graph.module().dims));
      if (const auto& address = graph.value(id).address) {
        absl::StrAppend(&text, "@", SpaceName(address->space), "+", address->at);
      }
      text += ';';
    };
    for (ValueId param : graph.params()) define(param);
    for (OpId op : graph.order()) {
      const OpData& data = graph.op(op);
      absl::StrAppend(&text, "\n", data.def().name);
      for (ValueId operand : data.fields.operands) {
        operand.valid() ? absl::StrAppend(&text, " ", numbers[operand]) : absl::StrAppend(&text, " _");
      }
      for (const Attr& attr : data.fields.attrs) {
        text += '{';
        std::visit([&](const auto& value) { Append(graph, value, text); }, attr);
        text += '}';
      }
      for (ValueId result : data.results) define(result);
    }
    text += "\nreturn";
    for (ValueId result : graph.results()) absl::StrAppend(&text, " ", numbers[result]);
    return hashes_[graph.id()] = XXH3_64bits(text.data(), text.size());
  }

 private:
  void Append(const Graph&, int64_t value, std::string& text) { absl::StrAppend(&text, value); }
  void Append(const Graph&, bool value, std::string& text) { text += value ? '1' : '0'; }
  void Append(const Graph&, double value, std::string& text) { absl::StrAppend(&text, std::bit_cast<uint64_t>(value)); }
  void Append(const Graph&, const std::string& value, std::string& text) {
    absl::StrAppend(&text, value.size(), ":", value);
  }
  void Append(const Graph& graph, const DimExpr& value, std::string& text) {
    text += graph.module().dims.ToString(value);
  }
  void Append(const Graph& graph, GraphRef value, std::string& text) {
    if (graph.module().HasGraph(value.id)) absl::StrAppend(&text, Hash(graph.module().graph(value.id)));
  }
  template <typename T>
  void Append(const Graph& graph, const std::vector<T>& values, std::string& text) {
    for (const T& value : values) {
      Append(graph, value, text);
      text += ',';
    }
  }

  absl::flat_hash_map<GraphId, uint64_t> hashes_;
};

}  // namespace

uint64_t HashGraph(const Graph& graph) { return Hasher().Hash(graph); }

uint64_t HashModule(const Module& module) {
  const std::string text = Print(module);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace sinter
