// Fuzz target: no bytes may crash the reader, make it read out of bounds, or give anything but
// finite values. As a normal program it replays the committed corpus and a fixed number of seeded
// mutations; with -DKVSTOW_FUZZ=ON (clang) it is a libFuzzer binary.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "codec/testing/golden.h"
#include "codec/testing/tiles.h"

namespace kvstow {
namespace {

void Decode(const testing::Golden& golden, std::span<const std::byte> record) {
  std::vector<std::byte> out(golden.layout->raw_bytes());
  (void)RecordIndex::Parse(record);
  (void)DecodeRecord(*CpuCodec(), *golden.layout, golden.fingerprint, record, out);
}

}  // namespace
}  // namespace kvstow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto goldens = kvstow::testing::Goldens();
  const auto bytes = std::as_bytes(std::span(data, size));
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  for (const auto& golden : goldens) {
    kvstow::Decode(golden, bytes);
    // Checksums keep nearly everything out; behind them the parsers have to stand alone.
    kvstow::testing::RepairChecksums(golden.fingerprint, copy);
    kvstow::Decode(golden, copy);
  }
  return 0;
}

#ifndef KVSTOW_FUZZ
namespace {

constexpr int kMutations = 2000;

void Replay(std::span<const std::byte> input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

void Mutate(std::mt19937_64& random, std::vector<std::byte>* bytes) {
  const size_t edits = 1 + random() % 4;
  for (size_t i = 0; i < edits && !bytes->empty(); ++i) {
    // Half of the edits in the first 300 bytes, where the structure is.
    const size_t reach = random() % 2 == 0 ? std::min<size_t>(300, bytes->size()) : bytes->size();
    (*bytes)[random() % reach] = static_cast<std::byte>(random());
  }
  if (random() % 8 == 0) bytes->resize(random() % (bytes->size() + 1));
}

}  // namespace

int main() {
  const std::string corpus = KVSTOW_SOURCE_DIR "/codec/testdata/fuzz_corpus/record";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    Replay(kvstow::testing::ReadFile(entry.path().string()));
    ++files;
  }
  std::mt19937_64 random(20240607);
  std::vector<std::vector<std::byte>> records;
  for (const auto& golden : kvstow::testing::Goldens()) {
    records.push_back(
        kvstow::testing::ReadFile(kvstow::testing::GoldenFolder() + golden.name + ".kvsr"));
  }
  for (int i = 0; i < kMutations; ++i) {
    auto bytes = records[static_cast<size_t>(i) % records.size()];
    Mutate(random, &bytes);
    Replay(bytes);
  }
  std::printf("%d corpus files, %d mutations\n", files, kMutations);
  return files > 0 ? 0 : 1;
}
#endif
