#include "tools/npy.h"

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/escape.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/status.h"

namespace sinter {
namespace {

constexpr absl::string_view kMagic("\x93NUMPY\x01\x00", 8);

constexpr std::pair<absl::string_view, DType> kKinds[] = {
    {"<f4", DType::kF32}, {"<f8", DType::kF64}, {"<f2", DType::kF16}, {"|i1", DType::kI8},
    {"|u1", DType::kU8},  {"<i4", DType::kI32}, {"<i8", DType::kI64}, {"|b1", DType::kBool},
};

// The text after `'key':` in the header, which is a Python dictionary on one line.
absl::string_view ValueOf(absl::string_view header, absl::string_view key) {
  const size_t at = header.find(absl::StrCat("'", key, "':"));
  if (at == absl::string_view::npos) return "";
  absl::string_view rest = header.substr(at + key.size() + 3);
  while (!rest.empty() && rest[0] == ' ') rest.remove_prefix(1);
  return rest;
}

absl::Status WriteArray(const std::string& path, absl::string_view kind, const std::vector<int64_t>& dims,
                        absl::Span<const uint8_t> data) {
  std::string header = absl::StrCat("{'descr': '", kind, "', 'fortran_order': False, 'shape': (",
                                    absl::StrJoin(dims, ", "), dims.size() == 1 ? ",), }" : "), }");
  header.resize(
      static_cast<size_t>(AlignUp(static_cast<int64_t>(kMagic.size() + 2 + header.size() + 1), 64)) - kMagic.size() - 2,
      ' ');
  header.back() = '\n';
  const uint16_t size = static_cast<uint16_t>(header.size());
  std::string head =
      absl::StrCat(kMagic, std::string{static_cast<char>(size & 255), static_cast<char>(size >> 8)}, header);
  SINTER_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  SINTER_RETURN_IF_ERROR(file.WriteAt(0, {reinterpret_cast<const uint8_t*>(head.data()), head.size()}));
  SINTER_RETURN_IF_ERROR(file.WriteAt(head.size(), data));
  return file.Commit();
}

}  // namespace

absl::StatusOr<Tensor> ReadNpy(const std::string& path) {
  SINTER_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return ParseNpy(file.bytes(), path);
}

absl::StatusOr<Tensor> ParseNpy(absl::Span<const uint8_t> bytes, const std::string& name) {
  const auto bad = [&](uint64_t at, absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": at byte ", at, ": ", what));
  };
  ByteReader reader(bytes);
  absl::string_view magic, header;
  if (!reader.ReadText(kMagic.size(), &magic) || magic != kMagic) return bad(0, "not a .npy file of version 1.0");
  if (!reader.ReadPrefixedText<uint16_t>(&header)) return bad(reader.pos(), absl::StrCat("header: ", reader.Lack()));
  const uint64_t data_at = reader.pos(), header_at = data_at - header.size();
  // Where a part of the header lies in the file.
  const auto place = [&](absl::string_view part) {
    return part.empty() ? header_at : header_at + static_cast<uint64_t>(part.data() - header.data());
  };
  for (absl::string_view key : {"descr", "fortran_order", "shape"}) {
    const absl::string_view value = ValueOf(header, key);
    if (value.empty()) return bad(place(header), absl::StrCat("the header has no '", key, "'"));
    if (!ValueOf(value, key).empty()) return bad(place(ValueOf(value, key)), absl::StrCat("a second '", key, "'"));
  }
  Tensor tensor;
  bool known = false;
  const absl::string_view descr = ValueOf(header, "descr");
  for (const auto& [kind, dtype] : kKinds) {
    if (!absl::StartsWith(descr, absl::StrCat("'", kind, "'"))) continue;
    tensor.dtype = dtype;
    known = true;
  }
  if (!known) {
    return bad(place(descr), absl::StrCat("unsupported element type ", Escaped(descr, 16),
                                          "; supported are f2 f4 f8 i1 u1 i4 i8 b1, little-endian"));
  }
  const absl::string_view order = ValueOf(header, "fortran_order");
  if (!absl::StartsWith(order, "False")) return bad(place(order), "the array is not in C order");
  const absl::string_view shape = ValueOf(header, "shape");
  const size_t end = shape.find(')');
  if (shape[0] != '(' || end == absl::string_view::npos) return bad(place(shape), "the shape is no tuple");
  std::optional<int64_t> elems = 1;
  for (absl::string_view part : absl::StrSplit(shape.substr(1, end - 1), ',', absl::SkipWhitespace())) {
    int64_t dim;
    if (!absl::SimpleAtoi(part, &dim) || dim < 0) return bad(place(part), absl::StrCat(Quoted(part), " is no dim"));
    tensor.dims.push_back(dim);
    if (limits::kRank.Exceeded(tensor.dims.size())) {
      return bad(place(part), absl::StrCat("too many dims: ", limits::kRank.Text()));
    }
    if (elems) elems = CheckedMul(*elems, dim);
  }
  const auto unit = static_cast<uint64_t>(Info(tensor.dtype).block_bytes);
  absl::Span<const uint8_t> data;
  if (!elems || !reader.ReadSpan(static_cast<uint64_t>(*elems), unit, &data) || reader.left() != 0) {
    return bad(place(shape),
               absl::StrCat("the shape does not agree with the ", bytes.size() - data_at, " bytes of data"));
  }
  tensor.values.resize(static_cast<size_t>(*elems));
  Decode(tensor.dtype, data.data(), absl::MakeSpan(tensor.values));
  return tensor;
}

absl::Status WriteNpy(const std::string& path, const Tensor& tensor) {
  const DType stored = tensor.dtype == DType::kBF16 ? DType::kF32 : tensor.dtype;
  std::vector<uint8_t> data(static_cast<size_t>(ElemBytes(stored, tensor.elems())));
  Encode(stored, tensor.values, data.data());
  for (const auto& [kind, dtype] : kKinds) {
    if (dtype == stored) return WriteArray(path, kind, tensor.dims, data);
  }
  return absl::UnimplementedError(absl::StrCat(path, ": cannot write elements of type ", Info(tensor.dtype).name));
}

absl::Status WriteNpy(const std::string& path, absl::Span<const float> values, const std::vector<int64_t>& dims) {
  return WriteArray(path, "<f4", dims,
                    {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)});
}

}  // namespace sinter
