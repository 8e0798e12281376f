// What it costs that scratch is overwritten, call by call with and without: the switch is this
// process's, so the daemon runs in it.
//
//   overwriting_benchmark [SECONDS]
//
// Prints GB/s (1e9 bytes of KV), medians over calls.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "codec/plane.h"
#include "codec/scratch.h"
#include "server/app/daemon.h"
#include "server/app/malloc_settings.h"
#include "tests/testing/bench_worker.h"
#include "tests/testing/daemon_fixture.h"

namespace kvstow::testing {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_each = 2;

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void OverwritingRow(
    const std::string& what, double bytes, const std::function<void()>& run,
    const std::function<void()>& reset = [] {}) {
  std::vector<double> rates[2];
  run();
  reset();
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds_each);
       Clock::now() < end || rates[0].size() < 5;) {
    for (const bool on : {false, true}) {
      SetOverwritesScratch(on);
      const auto start = Clock::now();
      run();
      rates[on].push_back(bytes / 1e9 /
                          std::chrono::duration<double>(Clock::now() - start).count());
      reset();
    }
  }
  const double without = Median(rates[false]), with = Median(rates[true]);
  std::printf("%-44s %8.3f GB/s without %8.3f with   %5.3f\n", what.c_str(), without, with,
              with / without);
  std::fflush(stdout);
}

void OverwritingOf(const std::string& target, DataPath path, CodecId codec) {
  const bool raw = codec == CodecId::kRaw;
  BenchWorker worker(target, path, codec, raw ? 8 : 2);
  const std::string name =
      absl::StrCat(raw ? "raw" : "eOptShrinkQ", " over ", std::string(Name(path)));
  OverwritingRow(
      "put, " + name, worker.bytes(), [&] { worker.Put(); }, [&] { worker.Drop(); });
  worker.Put();
  OverwritingRow("get, " + name, worker.bytes(), [&] { worker.Get(); });
  worker.Drop();
}

// Planes of two owners in turn on one thread: what the codec keeps is overwritten at each.
void OverwritingBetweenOwners(const std::string& target) {
  BenchWorker worker(target, DataPath::kGrpc, CodecId::kEOptShrinkQ, 1);
  const auto& planes = worker.space->layout().planes();
  std::vector<EncodedPlane> encoded(planes.size());
  double bytes = 0;
  for (const PlaneSpec& plane : planes) bytes += static_cast<double>(plane.raw_bytes);
  OverwritingRow("encode, a plane each of two owners in turn", bytes, [&] {
    for (size_t p = 0; p < planes.size(); ++p) {
      const uint32_t owner = OverwritesScratch() ? 1 + p % 2 : 0;
      PlaneEncodeJobs jobs = MakeEncodeJobs(planes[p], worker.space->layout().spec().codec, nullptr,
                                            worker.values[0][p], owner);
      CpuCodec()->Encode(std::span(jobs.jobs)).IgnoreError();
      encoded[p] = AssemblePlane(planes[p], jobs);
    }
  });
  OverwritingRow("decode, a plane each of two owners in turn", bytes, [&] {
    for (size_t p = 0; p < planes.size(); ++p) {
      const uint32_t owner = OverwritesScratch() ? 1 + p % 2 : 0;
      DecodePlane(*CpuCodec(), planes[p], nullptr, encoded[p].bytes, worker.pages[0][p], owner)
          .IgnoreError();
    }
  });
}

void Overwriting(const std::string& target) {
  for (const DataPath path : {DataPath::kGrpc, DataPath::kSharedMemory}) {
    for (const CodecId codec : {CodecId::kRaw, CodecId::kEOptShrinkQ}) {
      OverwritingOf(target, path, codec);
    }
  }
  OverwritingBetweenOwners(target);
}

void Run() {
#ifdef NDEBUG
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);  // as kvstowd does
#endif
  TuneMalloc();
  TempDir dir;
  ConfigOverrides overrides;
  overrides.unix_socket = dir.path() + "/d.sock";
  overrides.host_tier = "512MiB";
  overrides.metrics = "none";
  overrides.log_level = "warn";
  overrides.device = "cpu";
  overrides.threads = 1;
  auto daemon = Daemon::Start(*LoadConfig("", overrides));
  if (!daemon.ok()) std::exit(1);
  Overwriting((*daemon)->listeners().front());
}

}  // namespace
}  // namespace kvstow::testing

int main(int argc, char** argv) {
  if (argc > 1) kvstow::testing::seconds_each = std::atof(argv[1]);
  kvstow::testing::Run();
}
