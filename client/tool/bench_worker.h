// One thread of a load test: puts prompts of its own, looks them up, gets them.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "client/kvstow/client.h"
#include "client/tool/bench_kv.h"

namespace kvstow::tool {

enum class BenchOp { kPut, kGet, kLookup };
inline constexpr std::array<const char*, 3> kBenchOpNames = {"put", "get", "lookup"};

// What one kind of operation did.
struct BenchTally {
  std::vector<double> seconds;  // of each operation that succeeded
  uint64_t bytes = 0;           // raw KV moved
  uint64_t crossed = 0;         // what crossed the path for it: less where the worker codes
  uint64_t failures = 0;        // errors and, for gets and lookups, what should have been there
  uint64_t declined_blocks = 0;

  // Time that all workers together spent in it.
  double busy() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }
  void Add(const BenchTally& other);
};

struct BenchTotals {
  DataPath path = DataPath::kAuto;  // of the last call
  std::array<BenchTally, 3> ops;
  uint64_t stored_blocks = 0, stored_raw_bytes = 0, record_bytes = 0;
  // Sums over stored blocks, to be divided by their number.
  double k_bits = 0, v_bits = 0, k_nmse = 0, k_centred = 0, v_nmse = 0, v_centred = 0;
  std::string first_error;

  void Add(const BenchTotals& other);
};

// Not thread-safe; workers share the counter of operations only.
class BenchWorker {
 public:
  struct Limits {
    std::chrono::steady_clock::time_point end;
    uint64_t ops = 0;  // of all workers together; 0 for no limit
  };

  // With a client of its own. `mix`: the operations in turn; `blocks`: of a prompt.
  BenchWorker(const ClientOptions& options, const PlaneLayout& layout, std::unique_ptr<BenchKv> kv,
              std::vector<BenchOp> mix, uint32_t blocks, uint32_t seed);

  // Until one of the limits.
  void Run(const Limits& limits, std::atomic<uint64_t>* ops);
  const BenchTotals& totals() const { return totals_; }

 private:
  BenchTally& tally(BenchOp op) { return totals_.ops[static_cast<size_t>(op)]; }
  void Note(const absl::Status& status);
  void Put();
  void Get();
  void Lookup();
  void CountStored(const PutBlocksResult& result);

  const std::vector<BenchOp> mix_;
  const uint32_t blocks_;
  const std::unique_ptr<BenchKv> kv_;
  const std::unique_ptr<Client> client_;
  std::shared_ptr<Space> space_;
  std::mt19937 random_;
  std::deque<std::vector<BlockKey>> stored_;  // prompts put lately
  BenchTotals totals_;
};

}  // namespace kvstow::tool
