// Makes messages of what happens to blocks: batches, numbers them, keeps the last for replay.
//
// Messages are numbered from 0 on without a gap, unless events were lost before they came here:
// then one number is left out, so that subscribers see that something is missing, and that no
// replay has it.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "server/core/stats_sink.h"
#include "server/core/watch_hub.h"
#include "server/events/event_batch.h"
#include "server/events/event_encoder.h"
#include "server/events/replay_buffer.h"

namespace kvstow {

class EventStream {
 public:
  struct Options {
    TenantId tenant = kDefaultTenant;  // for the statistics
    std::string medium = {};           // as EventBatch
    EventFormat format = {};
    uint64_t replay_bytes = 0;
  };
  using Send = std::function<void(const ReplayBuffer::Message&)>;

  EventStream(Options options, StatsSink* stats, Send send)
      : options_(std::move(options)),
        stats_(stats),
        send_(std::move(send)),
        batch_(options_.medium),
        sent_(options_.replay_bytes) {}

  void Take(const WatchHub::Watcher::Item& item);
  void TakeAllCleared() { batch_.AddAllCleared(); }
  // So much was taken that it should be sent.
  bool full() const { return batch_.full(); }
  // Sends what was taken, if anything was.
  void Flush();

  // The last messages, oldest first.
  const std::deque<ReplayBuffer::Message>& sent() const { return sent_.messages(); }

 private:
  const Options options_;
  StatsSink* const stats_;
  const Send send_;
  EventBatch batch_;
  ReplayBuffer sent_;
  uint64_t sequence_ = 0;  // of the next message
};

}  // namespace kvstow
