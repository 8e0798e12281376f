// Writes the golden records, what they decode to, the records a reader must refuse, and the fuzz
// corpus. Run by hand, once for each version of the format; the files are then never changed:
//
//   make_golden codec/testdata
#include <cstdio>
#include <functional>
#include <string>

#include "codec/little_endian.h"
#include "codec/testing/golden.h"

namespace kvstow::testing {
namespace {

using Record = std::vector<std::byte>;

struct Mutation {
  const char* name;
  const char* expected;  // part of the message
  bool repair;           // make checksums right again
  std::function<void(Record&)> apply;
};

// Of the smallest golden record: header 192, directory 2 x 16, K plane at 224.
constexpr size_t kDirectory = 192;
constexpr size_t kFirstPlane = 224;

void Put8(Record& r, size_t at, unsigned value) { r[at] = static_cast<std::byte>(value); }

std::vector<Mutation> Mutations() {
  return {
      {"empty", "has no header", false, [](Record& r) { r.clear(); }},
      {"magic", "wrong magic", false, [](Record& r) { Put8(r, 0, 'X'); }},
      {"version", "version 2", true, [](Record& r) { Put8(r, 4, 2); }},
      {"header_size", "wrong header size", true, [](Record& r) { Put8(r, 6, 0); }},
      {"no_planes", "0 planes", true, [](Record& r) { StoreLe(uint32_t{0}, r.data() + 44); }},
      {"short_directory", "ends within its directory", false, [](Record& r) { r.resize(200); }},
      {"header_bit", "checksum mismatch", false, [](Record& r) { r[17] ^= std::byte{1}; }},
      {"codec", "codec 3 is unknown", true, [](Record& r) { Put8(r, 48, 3); }},
      {"bits", "bits not in 1..4", true, [](Record& r) { Put8(r, 49, 5); }},
      {"flags", "reserved flags", true, [](Record& r) { Put8(r, 51, 8); }},
      {"bound", "error bound", true, [](Record& r) { StoreLe(-1.0f, r.data() + 56); }},
      {"artifact", "no shared artifact", true, [](Record& r) { Put8(r, 96, 1); }},
      {"kind", "unknown kind or dtype", true, [](Record& r) { Put8(r, kDirectory + 2, 4); }},
      {"dtype", "unknown kind or dtype", true, [](Record& r) { Put8(r, kDirectory + 3, 0); }},
      {"record_bytes", "size is not that of its planes", true, [](Record& r) { Put8(r, 8, 0); }},
      {"truncated", "shorter or longer", false, [](Record& r) { r.pop_back(); }},
      {"trailing", "shorter or longer", false, [](Record& r) { r.push_back(std::byte{0}); }},
      {"shard", "expected shard 0", true, [](Record& r) { Put8(r, 52, 1); }},
      {"tokens", "sizes are not those of the space", true, [](Record& r) { Put8(r, 40, 0); }},
      {"layer", "plane 0 is not that of the space", true,
       [](Record& r) { Put8(r, kDirectory, 9); }},
      {"plane_bit", "checksum mismatch", false,
       [](Record& r) { r[kFirstPlane + 100] ^= std::byte{4}; }},
      {"tile_mode", "tile mode 2 is unknown", true, [](Record& r) { Put8(r, kFirstPlane, 0x22); }},
      {"tile_bits", "tile bits 5", true, [](Record& r) { Put8(r, kFirstPlane, 0x51); }},
      {"tile_rank", "tile rank 33", true, [](Record& r) { Put8(r, kFirstPlane + 1, 33); }},
      {"tile_flags", "reserved bits", true, [](Record& r) { Put8(r, kFirstPlane + 3, 0x82); }},
      {"table_padding", "padding of the tile table", true,
       [](Record& r) { Put8(r, kFirstPlane + 5, 1); }},
      {"tile_too_long", "run past its end", true, [](Record& r) { Put8(r, kFirstPlane, 0x41); }},
      {"tile_too_short", "padding of a tile", true, [](Record& r) { Put8(r, kFirstPlane, 0x11); }},
      {"plane_too_long", "bytes left after its tiles", true,
       [](Record& r) {
         r.resize(r.size() + 16);
         std::byte* second = r.data() + kDirectory + kDirectoryEntryBytes;
         StoreLe(LoadLe<uint32_t>(second + 8) + 16, second + 8);
         StoreLe(static_cast<uint64_t>(r.size()), r.data() + 8);
       }},
      {"body_padding", "padding of a tile", true,
       [](Record& r) {
         const size_t plane_bytes = LoadLe<uint32_t>(r.data() + kDirectory + 8);
         Put8(r, kFirstPlane + plane_bytes - 1, 1);
       }},
  };
}

void MakeAll(const std::string& folder) {
  std::string manifest;
  const std::vector<Golden> goldens = Goldens();
  for (const Golden& golden : goldens) {
    Codec& codec = *CpuCodec(CpuIsa::kPortable);
    const auto block = GoldenBlock(*golden.layout);
    const Record record = EncodeRecord(codec, golden, block);
    Record decoded(golden.layout->raw_bytes());
    const auto s = DecodeRecord(codec, *golden.layout, golden.fingerprint, record, decoded);
    if (!s.ok()) std::fprintf(stderr, "%s\n", s.ToString().c_str());
    WriteFile(folder + "/golden/" + golden.name + ".kvsr", record);
    WriteFile(folder + "/golden/" + golden.name + ".decoded", decoded);
    WriteFile(folder + "/fuzz_corpus/record/" + golden.name, std::span(record).first(2048));
  }
  const Golden& small = goldens.front();
  const Record good = ReadFile(folder + "/golden/" + small.name + ".kvsr");
  for (const Mutation& m : Mutations()) {
    Record bad = good;
    m.apply(bad);
    if (m.repair) RepairChecksums(small.fingerprint, bad);
    WriteFile(folder + "/must_fail/" + std::string(m.name) + ".kvsr", bad);
    manifest += std::string(m.name) + "\t" + m.expected + "\n";
  }
  WriteFile(folder + "/must_fail/expected.tsv", std::as_bytes(std::span(manifest)));
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_golden FOLDER\n");
    return 2;
  }
  kvstow::testing::MakeAll(argv[1]);
  return 0;
}
