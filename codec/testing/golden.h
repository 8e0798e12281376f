// The records that hold later versions of the reader to version 1 of the format: their spaces and
// what is in them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "codec/record.h"
#include "space/plane_layout.h"

namespace kvstow::testing {

struct Golden {
  std::string name;
  std::unique_ptr<PlaneLayout> layout;
  Fingerprint fingerprint{};
  uint64_t first_position = 0;
};

// The first one is the smallest.
std::vector<Golden> Goldens();
std::string GoldenFolder();

// A block for the layout: planes with a few common directions and some awkward tiles.
std::vector<std::byte> GoldenBlock(const PlaneLayout& layout);
std::vector<std::byte> EncodeRecord(Codec& codec, const Golden& golden,
                                    std::span<const std::byte> block);

// Makes the checksums and the fingerprint of a damaged record right again, as far as its header
// allows, so that what lies behind them is reached.
void RepairChecksums(const Fingerprint& fingerprint, std::span<std::byte> record);

std::vector<std::byte> ReadFile(const std::string& path);
void WriteFile(const std::string& path, std::span<const std::byte> bytes);

}  // namespace kvstow::testing
