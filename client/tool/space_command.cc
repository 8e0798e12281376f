#include "client/tool/space_command.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/escaping.h"
#include "client/convert.h"

namespace kvstow::tool {

absl::StatusOr<BlockKey> ParseKey(const std::string& hex) {
  BlockKey key;
  const bool digits =
      std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  if (digits && hex.size() == 2 * kKeyBytes &&
      client::FromBytes(absl::HexStringToBytes(hex), &key)) {
    return key;
  }
  return absl::InvalidArgumentError("--key must be 64 hexadecimal digits");
}

}  // namespace kvstow::tool
