// A StatsSink that adds up what it is told, for tests to look at. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/core/stats_sink.h"

namespace kvstow {

class RecordingStats : public StatsSink {
 public:
  // Sums over all tenants, tiers and devices.
  struct Totals {
    std::map<TenantId, absl::Duration> prefill_saved;
    uint64_t lookups = 0, hit_tokens = 0, miss_tokens = 0;
    uint64_t stored_blocks = 0, stored_bytes = 0;
    std::map<RemovalReason, uint64_t> removed_blocks, removed_bytes;
    std::map<Refusal, uint64_t> refused;
    uint64_t checksum_failures = 0, leases_expired = 0;
    uint64_t events_published = 0, events_lost = 0;
    std::map<std::pair<TierKind, TierKind>, uint64_t> moved, moved_bytes, moves_failed;
    std::map<CodecDirection, uint64_t> codec_bytes;
    uint64_t passing_codec_failures = 0, permanent_codec_failures = 0;
    std::map<CodecDirection, uint64_t> client_coded_bytes;
    std::map<PlaneFault, uint64_t> plane_faults;
    uint64_t encoded_records = 0, encoded_bytes = 0, encoded_entries = 0;
  };

  Totals totals() const {
    absl::MutexLock lock(&mu_);
    return totals_;
  }
  uint64_t refused(Refusal refusal) const {
    absl::MutexLock lock(&mu_);
    const auto it = totals_.refused.find(refusal);
    return it == totals_.refused.end() ? 0 : it->second;
  }
  uint64_t removed(RemovalReason reason) const {
    absl::MutexLock lock(&mu_);
    const auto it = totals_.removed_blocks.find(reason);
    return it == totals_.removed_blocks.end() ? 0 : it->second;
  }

  void OnLookup(TenantId, uint64_t hit_tokens, uint64_t miss_tokens) override {
    absl::MutexLock lock(&mu_);
    ++totals_.lookups;
    totals_.hit_tokens += hit_tokens;
    totals_.miss_tokens += miss_tokens;
  }
  void OnPrefillSaved(TenantId tenant, absl::Duration time) override {
    absl::MutexLock lock(&mu_);
    totals_.prefill_saved[tenant] += time;
  }
  void OnStored(TenantId, TierKind, uint64_t blocks, uint64_t bytes) override {
    absl::MutexLock lock(&mu_);
    totals_.stored_blocks += blocks;
    totals_.stored_bytes += bytes;
  }
  void OnRemoved(TenantId, TierKind, RemovalReason reason, uint64_t blocks,
                 uint64_t bytes) override {
    absl::MutexLock lock(&mu_);
    totals_.removed_blocks[reason] += blocks;
    totals_.removed_bytes[reason] += bytes;
  }
  void OnRefused(TenantId, Refusal refusal, uint64_t blocks) override {
    absl::MutexLock lock(&mu_);
    totals_.refused[refusal] += blocks;
  }
  void OnChecksumFailure(TierKind) override {
    absl::MutexLock lock(&mu_);
    ++totals_.checksum_failures;
  }
  void OnLeaseExpired(TenantId) override {
    absl::MutexLock lock(&mu_);
    ++totals_.leases_expired;
  }
  void OnEventsPublished(TenantId, uint64_t events) override {
    absl::MutexLock lock(&mu_);
    totals_.events_published += events;
  }
  void OnEventsLost(TenantId, uint64_t events) override {
    absl::MutexLock lock(&mu_);
    totals_.events_lost += events;
  }
  void OnCodecFailure(absl::string_view, bool permanent) override {
    absl::MutexLock lock(&mu_);
    ++(permanent ? totals_.permanent_codec_failures : totals_.passing_codec_failures);
  }
  void OnMoved(TierKind from, TierKind to, uint64_t records, uint64_t bytes) override {
    absl::MutexLock lock(&mu_);
    totals_.moved[{from, to}] += records;
    totals_.moved_bytes[{from, to}] += bytes;
  }
  void OnMoveFailed(TierKind from, TierKind to, uint64_t records) override {
    absl::MutexLock lock(&mu_);
    totals_.moves_failed[{from, to}] += records;
  }
  void OnCodec(CodecDirection direction, absl::string_view, uint64_t raw_bytes,
               absl::Duration) override {
    absl::MutexLock lock(&mu_);
    totals_.codec_bytes[direction] += raw_bytes;
  }
  void OnClientCoded(TenantId, CodecDirection direction, uint64_t raw_bytes) override {
    absl::MutexLock lock(&mu_);
    totals_.client_coded_bytes[direction] += raw_bytes;
  }
  void OnPlaneFault(TenantId, PlaneFault fault) override {
    absl::MutexLock lock(&mu_);
    ++totals_.plane_faults[fault];
  }
  void OnEncoded(TenantId, uint64_t record_bytes, uint64_t entries, const QualityReport&,
                 const QualityReport&) override {
    absl::MutexLock lock(&mu_);
    ++totals_.encoded_records;
    totals_.encoded_bytes += record_bytes;
    totals_.encoded_entries += entries;
  }

 private:
  mutable absl::Mutex mu_;
  Totals totals_ ABSL_GUARDED_BY(mu_);
};

}  // namespace kvstow
