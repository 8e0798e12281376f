// Fuzz target: no bytes may crash the reader, make it read out of bounds, or give anything but
// finite values.
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
