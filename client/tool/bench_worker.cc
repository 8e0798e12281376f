#include "client/tool/bench_worker.h"

#include <algorithm>
#include <utility>

namespace kvstow::tool {
namespace {

// Prompts that a worker remembers; older ones may be evicted by now.
constexpr size_t kRemembered = 8;

constexpr char kEvicted[] = "evicted before it was asked for again: the tier is too small";

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

void BenchTally::Add(const BenchTally& other) {
  seconds.insert(seconds.end(), other.seconds.begin(), other.seconds.end());
  bytes += other.bytes;
  crossed += other.crossed;
  failures += other.failures;
  declined_blocks += other.declined_blocks;
}

void BenchTotals::Add(const BenchTotals& other) {
  for (size_t i = 0; i < ops.size(); ++i) ops[i].Add(other.ops[i]);
  stored_blocks += other.stored_blocks;
  stored_raw_bytes += other.stored_raw_bytes;
  record_bytes += other.record_bytes;
  k_bits += other.k_bits;
  v_bits += other.v_bits;
  k_nmse += other.k_nmse;
  k_centred += other.k_centred;
  path = other.path;
  v_nmse += other.v_nmse;
  v_centred += other.v_centred;
  if (first_error.empty()) first_error = other.first_error;
}

BenchWorker::BenchWorker(const ClientOptions& options, const PlaneLayout& layout,
                         std::unique_ptr<BenchKv> kv, std::vector<BenchOp> mix, uint32_t blocks,
                         uint32_t seed)
    : mix_(std::move(mix)),
      blocks_(blocks),
      kv_(std::move(kv)),
      client_(Client::Create(options)),
      space_(client_->OpenSpace(layout.spec(), layout.shard()).value()),
      random_(seed) {}

void BenchWorker::Note(const absl::Status& status) {
  if (totals_.first_error.empty()) totals_.first_error = status.ToString();
}

void BenchWorker::Run(const Limits& limits, std::atomic<uint64_t>* ops) {
  for (size_t i = 0; Clock::now() < limits.end; ++i) {
    if (limits.ops > 0 && ops->fetch_add(1) >= limits.ops) return;
    const BenchOp op = stored_.empty() ? BenchOp::kPut : mix_[i % mix_.size()];
    if (op == BenchOp::kPut) Put();
    if (op == BenchOp::kGet) Get();
    if (op == BenchOp::kLookup) Lookup();
    // A daemon that is gone is not worth a busy loop.
    if (!client_->health().connected && !totals_.first_error.empty()) return;
  }
}

void BenchWorker::Put() {
  std::vector<uint32_t> tokens(size_t{blocks_} * space_->layout().spec().block_tokens);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random_());
  PutBlocksRequest request;
  request.keys = space_->Keys(tokens);
  kv_->Give(space_->layout(), &request);
  const auto start = Clock::now();
  const PutBlocksResult result = space_->PutBlocks(request);
  totals_.path = result.path;
  if (!result.status.ok()) {
    ++tally(BenchOp::kPut).failures;
    return Note(result.status);
  }
  tally(BenchOp::kPut).seconds.push_back(Since(start));
  tally(BenchOp::kPut).bytes += result.stored * space_->layout().raw_bytes();
  tally(BenchOp::kPut).crossed += result.sent_bytes;
  tally(BenchOp::kPut).declined_blocks += request.keys.size() - result.stored - result.existed;
  CountStored(result);
  if (result.stored < request.keys.size()) return;
  stored_.push_back(std::move(request.keys));
  if (stored_.size() > kRemembered) stored_.pop_front();
}

void BenchWorker::CountStored(const PutBlocksResult& result) {
  for (const PutBlocksResult::Block& block : result.blocks) {
    if (block.outcome != PutBlocksResult::Outcome::kStored) continue;
    ++totals_.stored_blocks;
    totals_.stored_raw_bytes += space_->layout().raw_bytes();
    totals_.record_bytes += block.record_bytes;
    totals_.k_bits += block.k.bits_per_entry;
    totals_.v_bits += block.v.bits_per_entry;
    totals_.k_nmse += block.k.nmse;
    totals_.k_centred += block.k.centred_nmse;
    totals_.v_nmse += block.v.nmse;
    totals_.v_centred += block.v.centred_nmse;
  }
}

void BenchWorker::Get() {
  GetBlocksRequest request;
  request.keys = stored_[random_() % stored_.size()];
  kv_->Take(space_->layout(), &request);
  const auto start = Clock::now();
  const GetBlocksResult result = space_->GetBlocks(request);
  totals_.path = result.path;
  tally(BenchOp::kGet).bytes += result.usable * space_->layout().raw_bytes();
  tally(BenchOp::kGet).crossed += result.received_bytes;
  if (result.status.ok() && result.usable == request.keys.size()) {
    tally(BenchOp::kGet).seconds.push_back(Since(start));
    return;
  }
  ++tally(BenchOp::kGet).failures;
  Note(result.status.ok() ? absl::NotFoundError(kEvicted) : result.status);
}

void BenchWorker::Lookup() {
  const std::vector<BlockKey>& keys = stored_[random_() % stored_.size()];
  LookupOptions options;
  options.ttl = absl::ZeroDuration();
  const auto start = Clock::now();
  const Match match = space_->Lookup(keys, options);
  if (match.status.ok() && match.blocks == keys.size()) {
    tally(BenchOp::kLookup).seconds.push_back(Since(start));
    return;
  }
  ++tally(BenchOp::kLookup).failures;
  Note(match.status.ok() ? absl::NotFoundError(kEvicted) : match.status);
}

}  // namespace kvstow::tool
