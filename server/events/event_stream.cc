#include "server/events/event_stream.h"

#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvstow {

void EventStream::Take(const WatchHub::Watcher::Item& item) {
  if (item.lost > 0) {
    Flush();
    ++sequence_;
    stats_->OnEventsLost(options_.tenant, item.lost);
  }
  if (item.event) batch_.Add(*item.event);
}

void EventStream::Flush() {
  if (batch_.empty()) return;
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  ReplayBuffer::Message message{
      sequence_++, std::make_shared<const std::string>(Encode(batch_, options_.format, now))};
  send_(message);
  stats_->OnEventsPublished(options_.tenant, batch_.blocks());
  sent_.Add(std::move(message));
  batch_.Clear();
}

}  // namespace kvstow
