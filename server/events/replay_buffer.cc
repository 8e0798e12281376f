#include "server/events/replay_buffer.h"

namespace kvstow {

void ReplayBuffer::Add(Message message) {
  messages_.push_back(std::move(message));
  bytes_ += BytesOf(messages_.back());
  while (bytes_ > limit_bytes_) {
    bytes_ -= BytesOf(messages_.front());
    messages_.pop_front();
  }
}

}  // namespace kvstow
