#include "client/bulk_stream.h"

#include <grpcpp/channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>

#include "client/serialize.h"
#include "kvstow/v1/kvstow.grpc.pb.h"

namespace kvstow::client {
namespace {

using Stream = grpc::ServerReaderWriter<v1::GetResponse, v1::GetRequest>;

// Answers a Get once it has read so many messages, or never.
class Daemon final : public v1::Kvstow::Service {
 public:
  static constexpr int kNever = 1 << 20;

  explicit Daemon(int messages) : messages_(messages) {
    server_ = grpc::ServerBuilder().RegisterService(this).BuildAndStart();
  }
  ~Daemon() override { server_->Shutdown(std::chrono::system_clock::now()); }

  BulkStream::Terms Terms(absl::Duration budget = absl::Seconds(60)) {
    return {server_->InProcessChannel({}), Deadline::In(budget), nullptr};
  }

 private:
  grpc::Status Get(grpc::ServerContext*, Stream* stream) override {
    v1::GetRequest request;
    for (int i = 0; i < messages_; ++i) {
      if (!stream->Read(&request)) return grpc::Status::CANCELLED;
    }
    v1::GetResponse response;
    response.mutable_answers();
    stream->Write(response);
    return grpc::Status::OK;
  }

  const int messages_;
  std::unique_ptr<grpc::Server> server_;
};

grpc::ByteBuffer Message() {
  v1::GetRequest request;
  request.mutable_open();
  return Serialize(request);
}

TEST(BulkStream, WritesWhileAMessageIsWaitedFor) {
  Daemon daemon(3);
  BulkStream stream(daemon.Terms(), "Get");
  int written = 0;
  grpc::ByteBuffer message;
  const auto came = stream.Read(&message, [&]() -> absl::StatusOr<bool> {
    EXPECT_TRUE(stream.Write(Message()));
    return ++written < 3;
  });
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_TRUE(*came);
  EXPECT_EQ(written, 3);
  EXPECT_GT(message.Length(), 0u);
  EXPECT_FALSE(stream.Read(&message)) << "the end";
  EXPECT_TRUE(stream.Finish().ok());
}

TEST(BulkStream, WorksOnlyUntilTheMessageIsThere) {
  Daemon daemon(1);
  BulkStream stream(daemon.Terms(), "Get");
  ASSERT_TRUE(stream.Write(Message()));
  grpc::ByteBuffer message;
  const auto came = stream.Read(&message, []() -> absl::StatusOr<bool> { return true; });
  EXPECT_TRUE(came.ok() && *came) << came.status();
}

TEST(BulkStream, WhatGoesWrongMeanwhileEndsTheCall) {
  Daemon daemon(Daemon::kNever);
  BulkStream stream(daemon.Terms(), "Get");
  grpc::ByteBuffer message;
  const auto came = stream.Read(
      &message, []() -> absl::StatusOr<bool> { return absl::InternalError("the device is lost"); });
  EXPECT_EQ(came.status(), absl::InternalError("the device is lost"));
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(BulkStream, WorkWithoutEndEndsAtTheDeadline) {
  Daemon daemon(Daemon::kNever);
  BulkStream stream(daemon.Terms(absl::Milliseconds(50)), "Get");
  grpc::ByteBuffer message;
  const auto came = stream.Read(&message, []() -> absl::StatusOr<bool> { return true; });
  EXPECT_TRUE(came.ok()) << came.status();
  EXPECT_FALSE(came.ok() && *came);
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

}  // namespace
}  // namespace kvstow::client
