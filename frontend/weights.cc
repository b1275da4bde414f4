#include "frontend/weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/checked.h"
#include "base/escape.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "frontend/presets.h"
#include "ir/quant.h"

namespace sinter {
namespace {

// The bits of every f16 number as bf16.
const std::vector<uint16_t>& HalvesAsBf16() {
  static const auto* const table = [] {
    auto* made = new std::vector<uint16_t>(size_t{1} << 16);
    for (size_t i = 0; i < made->size(); ++i) (*made)[i] = FloatToBf16(HalfToFloat(static_cast<uint16_t>(i)));
    return made;
  }();
  return *table;
}

// Rounds `elems` floats of one type to another.
void Convert(DType from, absl::Span<const uint8_t> in, DType to, int64_t elems, uint8_t* out) {
  if (from == DType::kF16 && to == DType::kBF16) {
    const uint16_t* const table = HalvesAsBf16().data();
    for (size_t at = 0; at < in.size(); at += sizeof(uint16_t)) {
      uint16_t half;
      std::memcpy(&half, in.data() + at, sizeof half);
      std::memcpy(out + at, table + half, sizeof half);
    }
    return;
  }
  std::vector<double> values(static_cast<size_t>(elems));
  Decode(from, in.data(), absl::MakeSpan(values));
  Encode(to, values, out);
}

class GgufWeights final : public WeightSource {
 public:
  explicit GgufWeights(std::shared_ptr<const Gguf> gguf)
      : WeightSource(gguf->path(), gguf->header_sha256()), gguf_(std::move(gguf)) {}

  absl::StatusOr<TensorInfo> Find(absl::string_view name) const override {
    const GgufTensor* tensor = gguf_->FindTensor(name);
    if (tensor == nullptr) return NotFound(name);
    const std::optional<DType> dtype = SupportedType(*tensor->type);
    if (!dtype) {
      return absl::UnimplementedError(
          absl::StrCat(path(), ": tensor \"", name, "\": type ", tensor->type->name, " is not supported"));
    }
    return TensorInfo{*dtype, {tensor->dims.begin(), tensor->dims.end()}};
  }

  void Done(absl::string_view name) const override {
    const GgufTensor* tensor = gguf_->FindTensor(name);
    if (tensor != nullptr) gguf_->Drop(*tensor);
  }
  absl::Status CheckUnchanged() const override { return gguf_->CheckUnchanged(); }

 private:
  absl::Status ReadRows(absl::string_view name, const TensorInfo& info, int64_t row_begin,
                        absl::Span<uint8_t> out) const override {
    if (out.empty()) return absl::OkStatus();
    const int64_t row_bytes = ElemBytes(info.dtype, info.row_elems());
    const auto bytes = gguf_->Bytes(*gguf_->FindTensor(name));
    std::memcpy(out.data(), bytes.subspan(static_cast<size_t>(row_begin * row_bytes), out.size()).data(), out.size());
    return absl::OkStatus();
  }

  std::shared_ptr<const Gguf> gguf_;
};

}  // namespace

// Rows of ggml_types.inc and of dtypes.inc go together by their names.
std::optional<DType> SupportedType(const GgmlType& type) {
  const std::optional<DType> dtype = ParseDType(absl::AsciiStrToLower(type.name));
  const bool weighs = dtype && (IsReal(*dtype) || FindQuantFormat(*dtype) != nullptr);
  return weighs ? dtype : std::nullopt;
}

int64_t TensorInfo::row_elems() const {
  int64_t elems = 1;
  for (size_t i = 1; i < dims.size(); ++i) elems *= dims[i];
  return elems;
}

absl::Status WeightSource::NotFound(absl::string_view name) const {
  return absl::NotFoundError(absl::StrCat(path_, ": there is no tensor \"", name, "\""));
}

absl::Status WeightSource::Read(absl::string_view name, DType dtype, int64_t row_begin, int64_t row_end,
                                absl::Span<uint8_t> out) const {
  SINTER_ASSIGN_OR_RETURN(const TensorInfo info, Find(name));
  const auto error = [&](const auto&... parts) {
    return absl::OutOfRangeError(absl::StrCat(path_, ": tensor \"", name, "\": ", parts...));
  };
  if (row_begin < 0 || row_begin > row_end || row_end > info.rows()) {
    return error("rows ", row_begin, " to ", row_end, " of ", info.rows());
  }
  if (dtype != info.dtype && !(IsFloat(dtype) && IsFloat(info.dtype))) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor \"", name, "\": elements of type ",
                                                   Info(info.dtype).name, " cannot be read as ", Info(dtype).name));
  }
  const int64_t elems = (row_end - row_begin) * info.row_elems();
  const int64_t bytes = (row_end - row_begin) * ElemBytes(dtype, info.row_elems());
  if (static_cast<size_t>(bytes) != out.size()) return error(bytes, " bytes of rows for a span of ", out.size());
  if (dtype == info.dtype) return ReadRows(name, info, row_begin, out);
  std::vector<uint8_t> stored(static_cast<size_t>(ElemBytes(info.dtype, elems)));
  SINTER_RETURN_IF_ERROR(ReadRows(name, info, row_begin, absl::MakeSpan(stored)));
  Convert(info.dtype, stored, dtype, elems, out.data());
  return absl::OkStatus();
}

std::unique_ptr<WeightSource> MakeGgufWeights(std::shared_ptr<const Gguf> gguf) {
  return std::make_unique<GgufWeights>(std::move(gguf));
}

absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeights(const std::string& path) {
  return WithoutExceptions(path, [&]() -> absl::StatusOr<std::unique_ptr<WeightSource>> {
    if (absl::StartsWith(path, kPresetPrefix)) {
      SINTER_ASSIGN_OR_RETURN(const Preset preset, ParsePreset(path));
      return MakePresetWeights(preset);
    }
    SINTER_ASSIGN_OR_RETURN(Gguf gguf, Gguf::Open(path));
    return MakeGgufWeights(std::make_shared<const Gguf>(std::move(gguf)));
  });
}

absl::Status CheckWeights(const Module& module, const WeightSource& source) {
  for (GraphId id : module.entries()) {
    const Graph& graph = module.graph(id);
    for (OpId op : graph.order()) {
      const auto weight = graph.As<ops::Weight>(op);
      if (!weight) continue;
      SINTER_ASSIGN_OR_RETURN(const TensorInfo info, source.Find(weight->name));
      const Type& type = graph.type(graph.op(op).results[0]);
      const bool same = std::equal(type.dims.begin(), type.dims.end(), info.dims.begin(), info.dims.end(),
                                   [](const DimExpr& a, int64_t b) { return a.is_const() && a.constant() == b; });
      if (same && (type.dtype == info.dtype || (IsFloat(type.dtype) && IsFloat(info.dtype)))) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("@", graph.name(), ": weight ", Quoted(weight->name), ": expected ", ToString(type, module.dims),
                       "; the weight file has ", Info(info.dtype).name, "[", absl::StrJoin(info.dims, ","), "]"));
    }
  }
  return absl::OkStatus();
}

WeightReader MakeWeightReader(const WeightSource& source) {
  return [&source](const std::string& name) -> absl::StatusOr<Tensor> {
    SINTER_ASSIGN_OR_RETURN(const TensorInfo info, source.Find(name));
    Tensor tensor = Tensor::Zeros(info.dtype, info.dims);
    std::vector<uint8_t> bytes(static_cast<size_t>(ElemBytes(info.dtype, tensor.elems())));
    SINTER_RETURN_IF_ERROR(source.Read(name, info.dtype, 0, info.rows(), absl::MakeSpan(bytes)));
    Decode(info.dtype, bytes.data(), absl::MakeSpan(tensor.values));
    return tensor;
  };
}

}  // namespace sinter
