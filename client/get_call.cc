#include "client/get_call.h"

#include <memory>
#include <utility>

#include "client/bulk_stream.h"
#include "client/convert.h"
#include "client/get_assembly.h"
#include "client/get_message.h"
#include "client/serialize.h"
#include "kvstow/v1/kvstow.pb.h"

namespace kvstow::client {
namespace {

v1::GetRequest Request(const SpaceHandle& handle, const GetBlocksRequest& request, size_t blocks) {
  v1::GetRequest message;
  message.set_session_id(handle.session_id);
  message.set_space(handle.space);
  message.set_keys(ToBytes(std::span(request.keys).first(blocks)));
  for (uint32_t layer : request.layers) message.add_layers(layer);
  message.set_form(v1::GetRequest::FORM_DECODED);
  return message;
}

// Reads to the stream's end, or to the first problem, or to where nothing useful can come.
absl::Status ReadAll(BulkStream* stream, const Deadline& deadline, GetAssembly* assembly) {
  grpc::ByteBuffer message;
  while (stream->Read(&message)) {
    if (absl::Status s = TakeGetResponse(&message, assembly); !s.ok()) return s;
    if (assembly->hopeless()) return absl::OkStatus();
    // The transport may have buffered more than the caller still has time for.
    if (deadline.expired()) return absl::DeadlineExceededError("Get ran out of time");
  }
  return absl::OkStatus();
}

// What the assembly and the transport say together.
absl::Status Conclude(absl::Status read, const grpc::Status& end, GetAssembly* assembly) {
  if (!read.ok()) return read;
  if (assembly->hopeless()) return assembly->damage();
  if (!end.ok()) return FromGrpc(end);
  if (absl::Status s = assembly->OnEnd(); !s.ok()) return s;
  return assembly->damage();
}

}  // namespace

Outcome RunGet(std::shared_ptr<grpc::Channel> channel, const SpaceHandle& handle,
               const PlaneLayout& layout, const GetBlocksRequest& request, size_t blocks,
               const Deadline& deadline, GetBlocksResult* result) {
  absl::StatusOr<GetAssembly> assembly = GetAssembly::Create(layout, request, blocks);
  if (!assembly.ok()) return Judge(assembly.status());
  const absl::Duration budget = deadline.remaining();
  BulkStream stream(std::move(channel), "Get", deadline);
  // What may go wrong here shows in reading.
  if (stream.Write(Serialize(Request(handle, request, blocks)))) stream.WritesDone();
  absl::Status read = ReadAll(&stream, deadline, &*assembly);
  // For a call that was left early; harmless for one that ended by itself.
  if (!read.ok() || assembly->hopeless()) stream.Cancel();
  absl::Status status = Conclude(std::move(read), stream.Finish(), &*assembly);
  result->usable = assembly->usable();
  result->received_bytes = assembly->received_bytes();
  if (absl::IsFailedPrecondition(status) && assembly->answered()) {
    status = absl::UnavailableError("the daemon lost the session in the middle of the Get");
  }
  return Excuse(Judge(std::move(status)), assembly->callback_time(), budget);
}

}  // namespace kvstow::client
