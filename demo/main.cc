// Replays real KV through a running daemon the way a worker does, and prints what came of it. Exits
// non-zero when the restored KV is outside the error that the daemon reported, or anything else is
// off.
#include <unistd.h>

#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "demo/attention.h"
#include "demo/trace.h"
#include "httplib.h"
#include "kvstow/client.h"

ABSL_FLAG(std::string, target, "unix:/run/kvstow/kvstowd.sock", "Where the daemon listens");
ABSL_FLAG(std::string, metrics, "127.0.0.1:9464", "host:port of its metrics");
ABSL_FLAG(std::string, traces, "testdata/kv-traces", "Folder of the trace");

namespace kvstow {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// A line that says what goes on: rewritten in place on a terminal, kept in a log.
void Progress(const std::string& text) {
  std::fprintf(stderr, isatty(2) ? "\r\033[K%s" : "%s\n", text.c_str());
  std::fflush(stderr);
}

double MbPerSecond(uint64_t bytes, absl::Duration took) {
  return static_cast<double>(bytes) / 1e6 / absl::ToDoubleSeconds(took);
}

struct PutPhase {
  PutBlocksResult result;
  absl::Duration took;
};

// The worker computes layer after layer and hands each over as it is done.
PutPhase PutText(const DemoTrace& trace, Space& space) {
  PutBlocksRequest request;
  request.keys = space.Keys(trace.text_tokens);
  const auto& layers = space.layout().layers();
  std::vector<std::byte> plane_bytes;
  request.source = [&](const PlaneSpec& plane, size_t block) -> std::span<const std::byte> {
    const size_t layer = std::find(layers.begin(), layers.end(), plane.layer) - layers.begin();
    if (plane.kind == PlaneKind::kK && block == 0) {
      Progress(absl::StrCat("prefilling `text`, storing layer ", layer + 1, " of ", layers.size()));
    }
    plane_bytes = trace.TextPlane(layer, plane.kind, block);
    return plane_bytes;
  };
  PutPhase phase;
  const absl::Time start = absl::Now();
  phase.result = space.PutBlocks(request);
  phase.took = absl::Now() - start;
  return phase;
}

struct GetPhase {
  Match match;
  GetBlocksResult result;
  RestoredPrefix restored;
  absl::Duration lookup_took, took, first_layer;
};

GetPhase GetBranch(const DemoTrace& trace, Space& space) {
  GetPhase phase;
  std::vector<BlockKey> keys = space.Keys(trace.branch_tokens);
  Progress("looking `branch` up");
  absl::Time start = absl::Now();
  phase.match = space.Lookup(keys);
  phase.lookup_took = absl::Now() - start;
  keys.resize(phase.match.blocks);
  const auto& layers = space.layout().layers();
  for (auto* planes : {&phase.restored.k, &phase.restored.v}) {
    planes->assign(layers.size(), std::vector<std::vector<std::byte>>(keys.size()));
  }
  GetBlocksRequest request;
  request.keys = keys;
  request.destination = [&](const PlaneSpec& plane, size_t block) -> std::span<std::byte> {
    const size_t layer = std::find(layers.begin(), layers.end(), plane.layer) - layers.begin();
    auto& planes = plane.kind == PlaneKind::kK ? phase.restored.k : phase.restored.v;
    planes[layer][block].resize(plane.raw_bytes);
    return planes[layer][block];
  };
  start = absl::Now();
  request.on_layer = [&](uint32_t layer, size_t) {
    if (layer == layers.front()) phase.first_layer = absl::Now() - start;
  };
  Progress("getting the shared prefix back");
  phase.result = space.GetBlocks(request);
  phase.took = absl::Now() - start;
  return phase;
}

// Series of the daemon's metrics that show what happened.
absl::StatusOr<std::vector<std::string>> Scrape(const std::string& address) {
  httplib::Client http(absl::StrCat("http://", address));
  http.set_connection_timeout(5);
  const auto response = http.Get("/metrics");
  if (!response || response->status != 200) {
    return absl::UnavailableError(absl::StrCat(
        "no metrics at ", address, ": ",
        response ? absl::StrCat("HTTP ", response->status) : httplib::to_string(response.error())));
  }
  std::vector<std::string> lines;
  std::istringstream text(response->body);
  for (std::string line; std::getline(text, line);) {
    for (const char* wanted :
         {"kvstow_lookup_tokens_total", "kvstow_tier_blocks", "kvstow_tier_physical_bytes",
          "kvstow_tier_logical_bytes", "kvstow_record_bytes_total", "kvstow_record_entries_total",
          "kvstow_transfer_bytes_total", "kvstow_codec_seconds_total",
          "kvstow_checksum_failures_total", "kvstow_relative_error_sum",
          "kvstow_relative_error_count"}) {
      if (absl::StartsWith(line, wanted)) lines.push_back(line);
    }
  }
  return lines;
}

struct Verdict {
  double k_error = 0, v_error = 0;  // of the restored prefix, measured here
  double k_reported = 0, v_reported = 0;
  std::vector<std::string> faults;
};

// Holds what came back against the exact KV and against what the daemon said of it.
Verdict Judge(const DemoTrace& trace, const PutPhase& put, const GetPhase& get) {
  Verdict verdict;
  const size_t shared = DemoTrace::kShared / trace.spec.block_tokens;
  if (put.result.stored + put.result.existed != put.result.blocks.size()) {
    verdict.faults.push_back(absl::StrCat("only ", put.result.stored,
                                          " blocks were stored: ", put.result.status.message()));
  }
  if (get.match.blocks != shared || get.result.usable != shared) {
    verdict.faults.push_back(absl::StrCat("matched ", get.match.blocks, " and got ",
                                          get.result.usable, " blocks, not ", shared, ": ",
                                          get.match.status.message(), get.result.status.message()));
    return verdict;
  }
  for (size_t block = 0; block < shared; ++block) {
    const auto check = [&](PlaneKind kind, const Fidelity& reported, double* sum,
                           double* reported_sum) {
      const double measured = BlockNmse(trace, get.restored, kind, block);
      *sum += measured / static_cast<double>(shared);
      *reported_sum += reported.nmse / static_cast<double>(shared);
      // The daemon measured the same numbers; only the order of summation may differ.
      if (measured <= reported.nmse * 1.001 + 1e-9) return;
      verdict.faults.push_back(absl::StrFormat("block %d: %s error %.6f, reported %.6f", block,
                                               std::string(Name(kind)), measured, reported.nmse));
    };
    check(PlaneKind::kK, put.result.blocks[block].k, &verdict.k_error, &verdict.k_reported);
    check(PlaneKind::kV, put.result.blocks[block].v, &verdict.v_error, &verdict.v_reported);
  }
  return verdict;
}

void Row(const char* what, const std::string& value) {
  std::printf("  %-34s %s\n", what, value.c_str());
}

std::string PathAndWhy(DataPath path, const Client::Health& health) {
  if (path == DataPath::kSharedMemory) {
    return "shm: memory shared with the daemon, which is on this host";
  }
  return absl::StrCat(Name(path), ": in the stream, since ", health.no_shared_memory.message());
}

void PrintTable(const DemoTrace& trace, const Space& space, const Client::Health& health,
                const PutPhase& put, const GetPhase& get, const Verdict& verdict,
                double attention_error, const std::vector<std::string>& metrics) {
  const uint64_t raw = space.layout().raw_bytes() * put.result.blocks.size();
  const double entries = static_cast<double>(space.layout().entries() * put.result.blocks.size());
  std::printf("\nkvstow demo: KV of a 28M-parameter Llama (%zu of its 8 layers), FP16\n",
              trace.layers());
  Row("prompt `text`", absl::StrCat(trace.text_tokens.size(), " tokens, ", put.result.blocks.size(),
                                    " blocks stored"));
  Row("prompt `branch`", absl::StrCat(trace.branch_tokens.size(), " tokens"));
  Row("matched tokens", absl::StrCat(get.match.tokens));
  Row("raw bytes", absl::StrFormat("%d (%.2f MiB)", raw, static_cast<double>(raw) / kMiB));
  Row("stored bytes",
      absl::StrFormat("%d (%.2f MiB), 1/%.1f", put.result.record_bytes,
                      static_cast<double>(put.result.record_bytes) / kMiB,
                      static_cast<double>(raw) / static_cast<double>(put.result.record_bytes)));
  Row("bits per entry, all bytes counted",
      absl::StrFormat("%.3f", 8 * static_cast<double>(put.result.record_bytes) / entries));
  Row("relative error of K (reported)",
      absl::StrFormat("%.4f (%.4f)", verdict.k_error, verdict.k_reported));
  Row("relative error of V (reported)",
      absl::StrFormat("%.4f (%.4f)", verdict.v_error, verdict.v_reported));
  Row("relative error of attention output", absl::StrFormat("%.5f", attention_error));
  Row("data path", PathAndWhy(put.result.path, health));
  Row("put, raw KV in", absl::StrFormat("%.0f MB/s", MbPerSecond(put.result.sent_bytes, put.took)));
  Row("get, raw KV out", absl::StrFormat("%.0f MB/s, first layer after %.1f ms",
                                         MbPerSecond(get.result.received_bytes, get.took),
                                         absl::ToDoubleMilliseconds(get.first_layer)));
  Row("lookup", absl::StrFormat("%.2f ms", absl::ToDoubleMilliseconds(get.lookup_took)));
  std::printf("scraped metrics:\n");
  for (const std::string& line : metrics) std::printf("  %s\n", line.c_str());
  std::fflush(stdout);
}

int Run() {
  auto trace = LoadDemoTrace(absl::GetFlag(FLAGS_traces));
  if (!trace.ok()) {
    std::fprintf(stderr, "demo: %s\n", std::string(trace.status().message()).c_str());
    return 1;
  }
  ClientOptions options;
  options.target = absl::GetFlag(FLAGS_target);
  options.client_name = "demo";
  options.lookup_deadline = absl::Seconds(5);
  auto client = Client::Create(options);
  auto space = client->OpenSpace(trace->spec);
  if (!space.ok()) {
    std::fprintf(stderr, "demo: %s\n", std::string(space.status().message()).c_str());
    return 1;
  }
  const PutPhase put = PutText(*trace, **space);
  const GetPhase get = GetBranch(*trace, **space);
  Verdict verdict = Judge(*trace, put, get);
  Progress("computing the attention of branch's last queries");
  double attention_error = 0;
  if (verdict.faults.empty()) attention_error = AttentionOutputError(*trace, get.restored);
  const auto metrics = Scrape(absl::GetFlag(FLAGS_metrics));
  if (!metrics.ok()) verdict.faults.push_back(std::string(metrics.status().message()));
  Progress("");
  for (const std::string& fault : verdict.faults) std::fprintf(stderr, "demo: %s\n", fault.c_str());
  if (!verdict.faults.empty()) return 1;
  PrintTable(*trace, **space, client->health(), put, get, verdict, attention_error, *metrics);
  return 0;
}

}  // namespace
}  // namespace kvstow

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return kvstow::Run();
}
