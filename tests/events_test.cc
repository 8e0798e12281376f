// KV events of a daemon in this process, by a subscriber of libzmq's. What a router sees of a whole
// deployment is in tests/deploy/events_test.py.
#include <zmq.h>

#include <map>
#include <msgpack.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/daemon_fixture.h"
#include "tests/testing/kv_data.h"
#include "tests/testing/raw_worker.h"

namespace kvstow::testing {
namespace {

using ::testing::HasSubstr;

class Peer {
 public:
  Peer(void* context, int type, const std::string& endpoint) : socket_(zmq_socket(context, type)) {
    const int patience = 20'000, linger = 0;
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &patience, sizeof(patience));
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof(linger));
    if (type == ZMQ_SUB) zmq_setsockopt(socket_, ZMQ_SUBSCRIBE, "", 0);
    EXPECT_EQ(zmq_connect(socket_, endpoint.c_str()), 0) << endpoint;
  }
  ~Peer() { zmq_close(socket_); }
  Peer(const Peer&) = delete;

  void Send(const std::vector<std::string>& parts) {
    for (size_t i = 0; i < parts.size(); ++i) {
      zmq_send(socket_, parts[i].data(), parts[i].size(), i + 1 < parts.size() ? ZMQ_SNDMORE : 0);
    }
  }
  // Empty when nothing came.
  std::vector<std::string> Receive() {
    std::vector<std::string> parts;
    int more = 1;
    for (size_t size = sizeof(more); more != 0;) {
      zmq_msg_t message;
      zmq_msg_init(&message);
      if (zmq_msg_recv(&message, socket_, 0) < 0) return {};
      parts.emplace_back(static_cast<const char*>(zmq_msg_data(&message)), zmq_msg_size(&message));
      zmq_msg_close(&message);
      zmq_getsockopt(socket_, ZMQ_RCVMORE, &more, &size);
    }
    return parts;
  }

 private:
  void* const socket_;
};

class EventsTest : public DaemonTest {
 protected:
  EventsTest() {
    config_.events = {{.endpoint = "tcp://127.0.0.1:0", .replay_endpoint = "tcp://127.0.0.1:0"}};
  }
  ~EventsTest() override { zmq_ctx_term(context_); }

  void StartWorker() {
    StartDaemon();
    worker_ = std::make_unique<RawWorker>(target());
    worker_->OpenSmall();
  }
  grpc::Status Put(const v1::PutRequest& announce, const std::vector<Planes>& blocks) {
    const auto context = worker_->Context();
    const auto stream = worker_->stub().Put(context.get());
    stream->Write(announce);
    for (const v1::PutRequest& chunk : RawWorker::ChunksOf(blocks)) stream->Write(chunk);
    stream->Write(RawWorker::Commit());
    stream->WritesDone();
    v1::PutResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }
  // Asks until `messages` of them are there, and returns the batches.
  std::vector<std::string> Replay(size_t messages) {
    Peer peer(context_, ZMQ_DEALER, daemon_->events(0).replay_endpoint());
    std::vector<std::string> batches;
    while (batches.size() < messages && !HasFailure()) {
      batches.clear();
      peer.Send({"", std::string(8, '\0')});
      std::vector<std::string> parts;
      while ((parts = peer.Receive()).size() == 3 && !parts[2].empty()) {
        EXPECT_EQ(parts[1], EncodeSequence(batches.size()));
        batches.push_back(parts[2]);
      }
      EXPECT_EQ(parts.size(), 3u) << "no answer";
    }
    return batches;
  }

  void* const context_ = zmq_ctx_new();
  std::unique_ptr<RawWorker> worker_;
};

TEST_F(EventsTest, APutAndADropAreReplayedToWhoComesLater) {
  StartWorker();
  const auto keys = SmallKeys(1);
  v1::PutRequest announce = worker_->Announce(keys);
  for (uint32_t i = 0; i < 128; ++i) {
    announce.mutable_announce()->mutable_blocks(0)->add_token_ids(70'000 + i);
  }
  ASSERT_TRUE(Put(announce, {MakeBlock(SmallLayout(), 1)}).ok());
  const auto batches = Replay(2);
  const auto unpacked = msgpack::unpack(batches[1].data(), batches[1].size());
  const auto event =
      unpacked->via.array.ptr[1].via.array.ptr[0].as<std::map<std::string, msgpack::object>>();
  EXPECT_EQ(event.at("type").as<std::string>(), "BlockStored");
  const auto hash = event.at("block_hashes").as<std::vector<std::vector<char>>>().at(0);
  EXPECT_EQ(std::string(hash.begin(), hash.end()), KeyBytes(keys[0]));
  const auto token_ids = event.at("token_ids").as<std::vector<uint32_t>>();
  ASSERT_EQ(token_ids.size(), 128u);
  EXPECT_EQ(token_ids[127], 70'127u);
  ASSERT_EQ(worker_->Drop(keys), 1u);
  EXPECT_THAT(Replay(3)[2], HasSubstr("BlockRemoved"));
}

TEST_F(EventsTest, ADaemonEndsWithASubscriberThatDoesNotRead) {
  StartWorker();
  const Peer subscriber(context_, ZMQ_SUB, daemon_->events(0).endpoint());
  ASSERT_TRUE(worker_->Put(SmallKeys(1), {MakeBlock(SmallLayout(), 1)}).status.ok());
  EXPECT_EQ(Replay(2).size(), 2u);
  worker_.reset();
  daemon_.reset();
}

TEST_F(EventsTest, TokenIdsThatAreNotABlocksAreRefused) {
  StartWorker();
  const auto keys = SmallKeys(2);
  v1::PutRequest announce = worker_->Announce(keys);
  announce.mutable_announce()->mutable_blocks(1)->add_token_ids(4711);
  const grpc::Status status = Put(announce, {});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("block 1 has 1 token_ids"));
  EXPECT_THAT(status.error_message(), ::testing::Not(HasSubstr("4711"))) << "prompt content";
  EXPECT_EQ(worker_->Stats().pending_blocks(), 0u);
}

TEST_F(EventsTest, AStartThatCannotBindLeavesNothingBound) {
  StartDaemon();
  config_.rpc.unix_socket = dir_.path() + "/second.sock";
  config_.events.push_back({.endpoint = daemon_->events(0).endpoint()});
  const auto second = Daemon::Start(config_);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("Address already in use"));
  daemon_.reset();
  config_.events.erase(config_.events.begin());
  EXPECT_TRUE(Daemon::Start(config_).ok()) << "the port is free again";
}

}  // namespace
}  // namespace kvstow::testing
