// LD_PRELOAD: shows a program a wall clock that is off by as many seconds as the file named by
// $KVSTOW_CLOCK_STEP says, a 64-bit number that a test changes under it. The kernel's stays as it
// is: a clock that is ahead of the kernel's is, for who waits for a time of it, one that has just
// been set back.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>

namespace {

int64_t Step() {
  static const volatile int64_t* const step = [] {
    const char* const file = getenv("KVSTOW_CLOCK_STEP");
    const int fd = file == nullptr ? -1 : open(file, O_RDONLY | O_CLOEXEC);
    void* const at = fd < 0 ? MAP_FAILED : mmap(nullptr, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) abort();
    close(fd);
    return static_cast<const volatile int64_t*>(at);
  }();
  return *step;
}

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  static const auto next = Next<int (*)(clockid_t, timespec*)>("clock_gettime");
  const int result = next(clock, now);
  if (clock == CLOCK_REALTIME && result == 0) now->tv_sec += Step();
  return result;
}

int gettimeofday(timeval* now, void* zone) noexcept {
  static const auto next = Next<int (*)(timeval*, void*)>("gettimeofday");
  const int result = next(now, zone);
  if (result == 0) now->tv_sec += Step();
  return result;
}

time_t time(time_t* out) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (out != nullptr) *out = now.tv_sec;
  return now.tv_sec;
}

}  // extern "C"
