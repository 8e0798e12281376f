#include "npy/npy.h"

#include <cstring>
#include <fstream>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace kvstow {
namespace {

constexpr absl::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kMaxHeaderBytes = size_t{1} << 16;
constexpr size_t kMaxRank = 32;

struct TypeName {
  absl::string_view descr;
  NpyType type;
};
// The first name of a type is the one written.
constexpr TypeName kTypes[] = {
    {"<f2", NpyType::kFp16},   {"<V2", NpyType::kBf16}, {"|V2", NpyType::kBf16},
    {"V2", NpyType::kBf16},    {"<f4", NpyType::kFp32}, {"|u1", NpyType::kUint8},
    {"<u1", NpyType::kUint8},  {"u1", NpyType::kUint8}, {"<u2", NpyType::kUint16},
    {"<u4", NpyType::kUint32},
};

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("npy: ", what));
}

struct Header {
  absl::string_view text;
  size_t data_at = 0;
};

absl::StatusOr<Header> FindHeader(absl::string_view file) {
  if (!absl::StartsWith(file, kMagic) || file.size() < 10) return Bad("no magic");
  const auto major = static_cast<uint8_t>(file[6]);
  if (major < 1 || major > 3) return Bad(absl::StrCat("version ", major, " is unknown"));
  const size_t length_bytes = major == 1 ? 2 : 4;
  const size_t start = 8 + length_bytes;
  if (file.size() < start) return Bad("header is cut short");
  uint32_t length = 0;
  std::memcpy(&length, file.data() + 8, length_bytes);
  if (length > kMaxHeaderBytes) return Bad("header is too long");
  if (file.size() - start < length) return Bad("header is cut short");
  return Header{file.substr(start, length), start + length};
}

// What follows 'key': in the header's dictionary.
std::optional<absl::string_view> ValueOf(absl::string_view header, absl::string_view key) {
  for (const char* quote : {"'", "\""}) {
    const std::string quoted = absl::StrCat(quote, key, quote);
    const size_t at = header.find(quoted);
    if (at == absl::string_view::npos) continue;
    absl::string_view rest = absl::StripLeadingAsciiWhitespace(header.substr(at + quoted.size()));
    if (!absl::ConsumePrefix(&rest, ":")) return std::nullopt;
    return absl::StripLeadingAsciiWhitespace(rest);
  }
  return std::nullopt;
}

absl::StatusOr<NpyType> ParseType(absl::string_view header) {
  const auto value = ValueOf(header, "descr");
  if (!value || value->size() < 2 || (value->front() != '\'' && value->front() != '"')) {
    return Bad("header has no descr string");
  }
  const size_t end = value->find(value->front(), 1);
  if (end == absl::string_view::npos) return Bad("descr is not closed");
  const absl::string_view descr = value->substr(1, end - 1);
  for (const TypeName& t : kTypes) {
    if (t.descr == descr) return t.type;
  }
  return Bad(absl::StrCat("element type '", descr.substr(0, 16), "' is not supported"));
}

absl::StatusOr<std::vector<uint64_t>> ParseShape(absl::string_view header) {
  auto value = ValueOf(header, "shape");
  if (!value || !absl::ConsumePrefix(&*value, "(")) return Bad("header has no shape tuple");
  const size_t end = value->find(')');
  if (end == absl::string_view::npos) return Bad("shape is not closed");
  std::vector<uint64_t> shape;
  for (absl::string_view item : absl::StrSplit(value->substr(0, end), ',')) {
    item = absl::StripAsciiWhitespace(item);
    if (item.empty()) continue;
    uint64_t extent = 0;
    if (!absl::SimpleAtoi(item, &extent)) return Bad("shape is not made of numbers");
    shape.push_back(extent);
    if (shape.size() > kMaxRank) return Bad("too many dimensions");
  }
  return shape;
}

absl::StatusOr<uint64_t> BytesOf(std::span<const uint64_t> shape, NpyType type) {
  uint64_t bytes = SizeOf(type);
  for (uint64_t extent : shape) {
    if (extent != 0 && bytes > kMaxNpyBytes / extent) return Bad("array is too large");
    bytes *= extent;
  }
  return bytes;
}

}  // namespace

size_t SizeOf(NpyType type) {
  switch (type) {
    case NpyType::kUint8:
      return 1;
    case NpyType::kFp16:
    case NpyType::kBf16:
    case NpyType::kUint16:
      return 2;
    case NpyType::kFp32:
    case NpyType::kUint32:
      return 4;
  }
  return 1;
}

uint64_t NpyArray::elements() const {
  uint64_t product = 1;
  for (uint64_t extent : shape) product *= extent;
  return product;
}

absl::StatusOr<NpyArray> ParseNpy(std::span<const std::byte> file) {
  const absl::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  auto header = FindHeader(text);
  if (!header.ok()) return header.status();
  auto type = ParseType(header->text);
  if (!type.ok()) return type.status();
  const auto order = ValueOf(header->text, "fortran_order");
  if (!order || !absl::StartsWith(*order, "False")) return Bad("array is not in C order");
  auto shape = ParseShape(header->text);
  if (!shape.ok()) return shape.status();
  auto bytes = BytesOf(*shape, *type);
  if (!bytes.ok()) return bytes.status();
  const auto data = file.subspan(header->data_at);
  if (data.size() != *bytes) {
    return Bad(absl::StrCat("data has ", data.size(), " bytes; the shape needs ", *bytes));
  }
  NpyArray array;
  array.type = *type;
  array.shape = *std::move(shape);
  array.data.assign(data.begin(), data.end());
  return array;
}

absl::StatusOr<std::vector<std::byte>> FormatNpy(const NpyArray& array) {
  auto bytes = BytesOf(array.shape, array.type);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != array.data.size()) return Bad("data and shape disagree");
  absl::string_view descr;
  for (const TypeName& t : kTypes) {
    if (t.type == array.type && descr.empty()) descr = t.descr;
  }
  std::string header =
      absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (",
                   absl::StrJoin(array.shape, ", "), array.shape.size() == 1 ? ",)" : ")", ", }");
  // The data starts at a multiple of 64.
  const size_t padding = (64 - (10 + header.size() + 1) % 64) % 64;
  header.append(padding, ' ');
  header.push_back('\n');
  if (header.size() > 0xffff) return Bad("too many dimensions");
  const auto length = static_cast<uint16_t>(header.size());
  std::string head = absl::StrCat(kMagic, absl::string_view("\x01\x00", 2));
  head.push_back(static_cast<char>(length & 255));
  head.push_back(static_cast<char>(length >> 8));
  head += header;
  std::vector<std::byte> file(head.size() + array.data.size());
  std::memcpy(file.data(), head.data(), head.size());
  if (!array.data.empty()) {
    std::memcpy(file.data() + head.size(), array.data.data(), array.data.size());
  }
  return file;
}

absl::StatusOr<NpyArray> ReadNpy(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  const std::streamoff size = in.tellg();
  if (size < 0) return absl::UnavailableError(absl::StrCat("cannot read ", path));
  std::vector<std::byte> file(static_cast<size_t>(size));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(file.data()), size);
  if (!in) return absl::UnavailableError(absl::StrCat("cannot read ", path));
  auto array = ParseNpy(file);
  if (!array.ok()) {
    return absl::Status(array.status().code(), absl::StrCat(path, ": ", array.status().message()));
  }
  return array;
}

absl::Status WriteNpy(const std::string& path, const NpyArray& array) {
  auto file = FormatNpy(array);
  if (!file.ok()) return file.status();
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(file->data()),
            static_cast<std::streamsize>(file->size()));
  out.close();
  if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace kvstow
