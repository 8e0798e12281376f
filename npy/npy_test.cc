#include "npy/npy.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace kvstow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::byte> Bytes(const std::string& s) {
  const auto* p = reinterpret_cast<const std::byte*>(s.data());
  return {p, p + s.size()};
}

std::string File(const std::string& header, const std::string& data, char version = 1) {
  std::string s = "\x93NUMPY";
  s.push_back(version);
  s.push_back('\0');
  s.push_back(static_cast<char>(header.size() & 255));
  s.push_back(static_cast<char>(header.size() >> 8));
  if (version > 1) s.append(2, '\0');
  return s + header + data;
}

void ExpectError(const std::string& file, const std::string& what) {
  const auto array = ParseNpy(Bytes(file));
  ASSERT_FALSE(array.ok()) << what;
  EXPECT_EQ(array.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(array.status().message()), HasSubstr(what));
}

TEST(Npy, RoundTripsEveryTypeAndRank) {
  for (NpyType type : {NpyType::kFp16, NpyType::kBf16, NpyType::kFp32, NpyType::kUint8,
                       NpyType::kUint16, NpyType::kUint32}) {
    for (const std::vector<uint64_t>& shape :
         {std::vector<uint64_t>{}, {5}, {2, 3}, {2, 0, 3}, {1, 2, 3, 4}}) {
      NpyArray array{type, shape, {}};
      array.data.resize(array.elements() * SizeOf(type));
      for (size_t i = 0; i < array.data.size(); ++i) array.data[i] = static_cast<std::byte>(i * 7);
      const auto file = FormatNpy(array);
      ASSERT_TRUE(file.ok()) << file.status();
      EXPECT_EQ((file->size() - array.data.size()) % 64, 0u);
      const auto back = ParseNpy(*file);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(back->type, type);
      EXPECT_EQ(back->shape, shape);
      EXPECT_EQ(back->data, array.data);
    }
  }
}

TEST(Npy, ReadsWhatNumPyWrites) {
  const std::string header = "{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }\n";
  for (char version : {1, 2, 3}) {
    const auto array = ParseNpy(Bytes(File(header, "\x01\x02\x03\x04", version)));
    ASSERT_TRUE(array.ok()) << array.status();
    EXPECT_EQ(array->type, NpyType::kUint16);
    EXPECT_THAT(array->As<uint16_t>(), ElementsAre(0x0201, 0x0403));
  }
}

TEST(Npy, KeepsFilesInPlace) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/array.npy";
  const NpyArray array{NpyType::kFp32, {2}, std::vector<std::byte>(8)};
  ASSERT_TRUE(WriteNpy(path, array).ok());
  const auto back = ReadNpy(path);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->data, array.data);
  std::filesystem::remove(path);
  EXPECT_EQ(ReadNpy(path).status().code(), absl::StatusCode::kNotFound);
}

TEST(Npy, RefusesMalformedFiles) {
  const std::string good = "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3), }\n";
  ExpectError("", "no magic");
  ExpectError("\x93NUMPX1234567", "no magic");
  ExpectError(File(good, std::string(12, 'x'), 4), "version 4");
  ExpectError(File(good, "").substr(0, 30), "cut short");
  ExpectError(File(good, "").substr(0, 9), "no magic");
  ExpectError(File(good, std::string(11, 'x')), "data has 11 bytes; the shape needs 12");
  ExpectError(File(good, std::string(13, 'x')), "data has 13 bytes; the shape needs 12");
  ExpectError(File("{'fortran_order': False, 'shape': (2,), }", ""), "no descr");
  ExpectError(File("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", ""), "'<f8'");
  ExpectError(File("{'descr': '>f2', 'fortran_order': False, 'shape': (2,), }", ""), "'>f2'");
  ExpectError(File("{'descr': '<f2", ""), "not closed");
  ExpectError(File("{'descr': '<f2', 'fortran_order': True, 'shape': (2,), }", ""), "C order");
  ExpectError(File("{'descr': '<f2', 'fortran_order': False}", ""), "no shape");
  ExpectError(File("{'descr': '<f2', 'fortran_order': False, 'shape': (2", ""), "not closed");
  ExpectError(File("{'descr': '<f2', 'fortran_order': False, 'shape': (-2,)}", ""), "numbers");
  ExpectError(
      File("{'descr': '<f2', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", ""),
      "too large");
}

TEST(Npy, RefusesToWriteWhatIsInconsistent) {
  EXPECT_FALSE(FormatNpy({NpyType::kFp32, {2}, std::vector<std::byte>(7)}).ok());
}

}  // namespace
}  // namespace kvstow
