// Exit codes of the tool; documented in its --help.
#pragma once

namespace kvstow::tool {

inline constexpr int kExitOk = 0;
inline constexpr int kExitNo = 1;      // answered, and the answer is no
inline constexpr int kExitFailed = 2;  // no daemon, or the call failed
inline constexpr int kExitUsage = 64;  // as sysexits.h

}  // namespace kvstow::tool
