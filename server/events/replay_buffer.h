// The last messages of a stream, for subscribers that missed some. Bounded by bytes: what is older
// goes, and with it the token ids in it.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>

namespace kvstow {

class ReplayBuffer {
 public:
  using Payload = std::shared_ptr<const std::string>;
  struct Message {
    uint64_t sequence = 0;
    Payload payload;
  };

  explicit ReplayBuffer(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Sequences ascend. One that is larger than the limit is not kept, nor anything before it.
  void Add(Message message);
  const std::deque<Message>& messages() const { return messages_; }

 private:
  // What a message takes besides its payload.
  static constexpr uint64_t kOverhead = 128;
  static uint64_t BytesOf(const Message& message) { return message.payload->size() + kOverhead; }

  const uint64_t limit_bytes_;
  std::deque<Message> messages_;
  uint64_t bytes_ = 0;
};

}  // namespace kvstow
