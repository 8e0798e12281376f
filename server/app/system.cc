#include "server/app/system.h"

#include <sys/random.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>

namespace kvstow {

absl::Time SteadyClock::Now() const {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

void SystemRandom::Fill(std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = getrandom(out.data(), out.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    // Without randomness ids could be guessed; there is nothing safe to go on with.
    if (n <= 0) std::abort();
    out = out.subspan(static_cast<size_t>(n));
  }
}

}  // namespace kvstow
