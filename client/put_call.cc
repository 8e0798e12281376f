#include "client/put_call.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/bulk_stream.h"
#include "client/chunk_writer.h"
#include "client/convert.h"
#include "client/device_encoding_writer.h"
#include "client/device_wait.h"
#include "client/device_writer.h"
#include "client/encoding_writer.h"
#include "client/serialize.h"
#include "client/staged_writer.h"
#include "client/stopwatch.h"
#include "kvstow/v1/kvstow.pb.h"

namespace kvstow::client {
namespace {

using Block = PutBlocksResult::Block;

absl::Status Broken(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the daemon broke the protocol of Put: ", what));
}

// Of one call: more would not fit into one message with all else.
constexpr size_t kMostTokenIds = 200'000;

// Of the first blocks, as many as may be told.
void AddTokenIds(const PutBlocksRequest& request, size_t b, size_t block_tokens,
                 v1::BlockIntent* intent) {
  const size_t end = (b + 1) * block_tokens;
  if (request.token_ids.size() < end || end > kMostTokenIds) return;
  const auto from = request.token_ids.begin() + static_cast<ptrdiff_t>(b * block_tokens);
  intent->mutable_token_ids()->Add(from, from + static_cast<ptrdiff_t>(block_tokens));
}

v1::PutRequest Announce(const SpaceHandle& handle, const PlaneLayout& layout,
                        const PutBlocksRequest& request, size_t blocks,
                        const std::optional<StagingLink::Slot>& slot, v1::Form form) {
  v1::PutRequest message;
  v1::PutRequest::Announce* announce = message.mutable_announce();
  announce->set_session_id(handle.session_id);
  announce->set_space(handle.space);
  if (slot) *announce->mutable_slot() = slot->Claim();
  announce->set_form(form);
  announce->set_ttl_ms(std::max<int64_t>(absl::ToInt64Milliseconds(request.ttl), 0));
  for (size_t b = 0; b < blocks; ++b) {
    v1::BlockIntent* intent = announce->add_blocks();
    intent->set_key(ToBytes(request.keys[b]));
    intent->set_first_position(request.first_position + b * layout.spec().block_tokens);
    AddTokenIds(request, b, layout.spec().block_tokens, intent);
    if (b > 0) {
      intent->set_parent(ToBytes(request.keys[b - 1]));
    } else if (request.first_position != 0) {
      intent->set_parent(ToBytes(request.parent));
    }
  }
  return message;
}

// Who encodes.
enum class Encoder {
  kDaemon,
  kCoder,   // the client's, in host memory
  kDevice,  // the request's DeviceKv
};

class PutCall {
 public:
  PutCall(std::optional<StagingLink::Slot> slot, Encoder encoder, SpaceCoder* coder,
          const PlaneLayout& layout, const PutBlocksRequest& request, size_t blocks,
          const BulkStream::Terms& terms, PutBlocksResult* result)
      : slot_(std::move(slot)),
        encoder_(encoder),
        coder_(coder),
        layout_(layout),
        request_(request),
        blocks_(blocks),
        terms_(terms),
        result_(*result) {}

  Outcome Run(const SpaceHandle& handle) {
    const absl::Duration budget = terms_.deadline.remaining();
    stream_ = std::make_unique<BulkStream>(terms_, "Put");
    absl::Status problem = Talk(handle);
    // Ends the call now; nothing is left of it in the daemon. A broken stream has ended already,
    // and cancelling would hide why.
    if (!problem.ok() && !absl::IsAborted(problem)) stream_->Cancel();
    const grpc::Status end = stream_->Finish();
    if (slot_ && ((end.ok() && !IsGathering()) || IsUntouched())) slot_->Return();
    // The transport's word explains a stream that broke; ours explains why we ended it.
    if (problem.ok() || absl::IsAborted(problem)) problem = FromGrpc(end);
    if (problem.ok() && !done_) problem = Broken("it ended without results");
    if (!problem.ok()) NothingStored();
    if (problem_is_ours_) return Unmade(std::move(problem));
    if (absl::IsFailedPrecondition(problem) && asked_source_) {
      problem = absl::UnavailableError("the daemon lost the session in the middle of the Put");
    }
    return Excuse(Judge(std::move(problem)), in_source_, budget - terms_.deadline.remaining());
  }

 private:
  // ABORTED: the stream is broken, Finish() says why.
  static absl::Status BrokenStream() { return absl::AbortedError("stream broken"); }

  // The engine's stream may still be writing to the slot.
  bool IsGathering() const { return slot_->on_device() && asked_source_ && !flushed_; }

  // Only its own word that the call is over tells that the daemon reads the slot no more. It never
  // looked at one that it was told nothing of; but the engine's stream may be writing there.
  bool IsUntouched() const { return result_.sent_bytes == 0 && !IsGathering(); }

  absl::Status Talk(const SpaceHandle& handle) {
    const v1::PutRequest announce =
        Announce(handle, layout_, request_, blocks_, slot_,
                 encoder_ == Encoder::kDaemon ? v1::FORM_DECODED : v1::FORM_ENCODED);
    if (!stream_->Write(Serialize(announce))) return BrokenStream();
    if (absl::Status s = ReadAnswers(); !s.ok()) return s;
    if (!wanted_.empty()) {
      if (absl::Status s = SendPlanes(handle.max_chunk_bytes); !s.ok()) return s;
    }
    v1::PutRequest commit;
    commit.mutable_commit();
    if (!stream_->Write(Serialize(commit)) || !stream_->WritesDone()) return BrokenStream();
    return ReadResults();
  }

  absl::Status Read(v1::PutResponse* response) {
    grpc::ByteBuffer buffer;
    if (!stream_->Read(&buffer)) return BrokenStream();
    return Parse(&buffer, response) ? absl::OkStatus() : Broken("no PutResponse");
  }

  absl::Status ReadAnswers() {
    v1::PutResponse response;
    if (absl::Status s = Read(&response); !s.ok()) return s;
    const auto& answers = response.answers().answers();
    if (!response.has_answers() || static_cast<size_t>(answers.size()) != blocks_) {
      return Broken("not one answer a block");
    }
    for (size_t b = 0; b < blocks_; ++b) {
      if (absl::Status s = TakeAnswer(answers[b], b); !s.ok()) return s;
    }
    // Without anything to send the call may as well end here.
    done_ = wanted_.empty();
    return absl::OkStatus();
  }

  absl::Status TakeAnswer(const v1::PutResponse::Answer& answer, size_t b) {
    switch (answer.kind()) {
      case v1::PutResponse::Answer::SEND:
        wanted_.push_back(b);
        return absl::OkStatus();
      case v1::PutResponse::Answer::EXISTS:
        result_.blocks[b].outcome = PutBlocksResult::Outcome::kExisted;
        return absl::OkStatus();
      case v1::PutResponse::Answer::DECLINED:
        result_.blocks[b].refusal = std::string(RefusalName(answer.refusal()));
        return absl::OkStatus();
      default:
        return Broken("an answer of no known kind");
    }
  }

  std::unique_ptr<PlaneWriter> MakeWriter(size_t max_chunk_bytes) {
    auto path = MakePathWriter(max_chunk_bytes);
    switch (encoder_) {
      case Encoder::kDaemon:
        return path;
      case Encoder::kDevice:
        return std::make_unique<DeviceEncodingWriter>(std::move(path), request_.device.get(),
                                                      &layout_, request_.first_position, &terms_);
      case Encoder::kCoder:
        break;
    }
    std::vector<std::shared_ptr<const SpaceCoder::Positions>> positions(blocks_);
    for (size_t b : wanted_) {
      positions[b] = coder_->At(request_.first_position + b * layout_.spec().block_tokens);
    }
    return std::make_unique<EncodingWriter>(std::move(path), coder_, &layout_, std::move(positions),
                                            terms_.deadline);
  }

  std::unique_ptr<PlaneWriter> MakePathWriter(size_t max_chunk_bytes) {
    const auto send = [this](const grpc::ByteBuffer& put_request) {
      return stream_->Write(put_request);
    };
    if (!slot_) return std::make_unique<ChunkWriter>(max_chunk_bytes, send);
    const auto await = [this] { return ReadConsumed(); };
    if (slot_->on_device()) {
      return std::make_unique<DeviceWriter>(slot_->bytes(), max_chunk_bytes, &layout_,
                                            request_.device.get(), &terms_, send, await);
    }
    const bool raw = layout_.spec().codec.codec == CodecId::kRaw;
    return std::make_unique<StagedWriter>(slot_->bytes(),
                                          raw ? SlotReader::kStores : SlotReader::kEncodes,
                                          max_chunk_bytes, send, await);
  }

  std::optional<uint64_t> ReadConsumed() {
    v1::PutResponse response;
    if (!Read(&response).ok() || !response.has_consumed()) return std::nullopt;
    return response.consumed().segments();
  }

  absl::Status SendPlanes(size_t max_chunk_bytes) {
    const auto writer = MakeWriter(max_chunk_bytes);
    absl::Status status;
    for (const PlaneSpec& plane : layout_.planes()) {
      for (size_t b : wanted_) {
        status = SendPlane(plane, b, writer.get());
        if (!status.ok()) break;
      }
      if (!status.ok()) break;
    }
    if (status.ok()) {
      flushed_ = writer->Flush();
      if (!flushed_) status = ProblemOf(*writer);
    }
    result_.sent_bytes = writer->bytes_sent();
    in_source_ += writer->waited();
    return status;
  }

  // What the worker's coder or GPU could not do says nothing of the daemon.
  absl::Status ProblemOf(const PlaneWriter& writer) {
    problem_is_ours_ = !writer.problem().ok();
    return problem_is_ours_ ? writer.problem() : BrokenStream();
  }

  absl::Status SendPlane(const PlaneSpec& plane, size_t b, PlaneWriter* writer) {
    if (absl::Status s = AwaitLayer(plane.layer, writer); !s.ok()) return s;
    if (terms_.deadline.expired()) return absl::DeadlineExceededError("Put ran out of time");
    asked_source_ = true;
    if (request_.device != nullptr) return Gather(plane, b, writer);
    return request_.fill ? Fill(plane, b, writer) : Copy(plane, b, writer);
  }

  // Of a started Put: waits until its owner has the layer, and lets the daemon have what it had
  // before.
  absl::Status AwaitLayer(uint32_t layer, PlaneWriter* writer) {
    if (terms_.control == nullptr || terms_.control->LayerAllowed(layer)) return absl::OkStatus();
    if (!writer->Flush()) return ProblemOf(*writer);
    const Stopwatch stopwatch(&in_source_);
    if (terms_.control->AwaitLayer(layer, terms_.deadline)) return absl::OkStatus();
    return terms_.control->cancelled()
               ? absl::CancelledError("the Put was given up")
               : absl::DeadlineExceededError("a layer was not ready in time");
  }

  absl::Status Gather(const PlaneSpec& plane, size_t b, PlaneWriter* writer) {
    const auto to_host = [&](std::span<std::byte> to) {
      const Stopwatch stopwatch(&in_source_);
      return GatherToHost(*request_.device, plane, b, to, terms_);
    };
    const bool sent = writer->Gather(plane, static_cast<uint32_t>(b), to_host);
    return sent ? absl::OkStatus() : ProblemOf(*writer);
  }

  absl::Status Fill(const PlaneSpec& plane, size_t b, PlaneWriter* writer) {
    bool given_up = false;
    const bool sent = writer->Fill(plane, b, [&](std::span<std::byte> to) {
      const Stopwatch stopwatch(&in_source_);
      given_up = !request_.fill(plane, b, to);
      return !given_up;
    });
    if (given_up) return absl::CancelledError("the source gave the Put up");
    return sent ? absl::OkStatus() : ProblemOf(*writer);
  }

  absl::Status Copy(const PlaneSpec& plane, size_t b, PlaneWriter* writer) {
    std::span<const std::byte> bytes;
    {
      const Stopwatch stopwatch(&in_source_);
      bytes = request_.source(plane, b);
    }
    if (bytes.empty()) return absl::CancelledError("the source gave the Put up");
    if (bytes.size() != plane.raw_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("the source of layer ", plane.layer, " gave ",
                                                     bytes.size(), " bytes, the plane has ",
                                                     plane.raw_bytes));
    }
    return writer->Append(plane, b, bytes) ? absl::OkStatus() : ProblemOf(*writer);
  }

  absl::Status ReadResults() {
    v1::PutResponse response;
    do {
      if (absl::Status s = Read(&response); !s.ok()) return s;
    } while (slot_ && response.has_consumed());  // nobody waits for its room any more
    const auto& results = response.results().results();
    if (!response.has_results() || static_cast<size_t>(results.size()) != blocks_) {
      return Broken("not one result a block");
    }
    for (size_t b : wanted_) TakeResult(results[b], &result_.blocks[b]);
    result_.k = FromProto(response.results().k());
    result_.v = FromProto(response.results().v());
    result_.lease = response.results().lease();
    done_ = true;
    grpc::ByteBuffer more;
    return stream_->Read(&more) ? Broken("more after the results") : absl::OkStatus();
  }

  void TakeResult(const v1::PutResponse::Result& from, Block* to) {
    if (!from.stored()) {
      to->refusal = std::string(RefusalName(from.refusal()));
      return;
    }
    to->outcome = PutBlocksResult::Outcome::kStored;
    to->record_bytes = from.record_bytes();
    to->k = FromProto(from.k());
    to->v = FromProto(from.v());
    result_.record_bytes += from.record_bytes();
  }

  // A call that did not end well commits nothing. (The daemon may have committed just before the
  // stream broke; to say so without its word would be a guess, and not knowing costs nothing.)
  void NothingStored() {
    for (size_t b : wanted_) result_.blocks[b] = Block();
    result_.record_bytes = 0;
    result_.k = result_.v = Fidelity();
    result_.lease = 0;
  }

  std::optional<StagingLink::Slot> slot_;
  const Encoder encoder_;
  SpaceCoder* const coder_;
  const PlaneLayout& layout_;
  const PutBlocksRequest& request_;
  const size_t blocks_;
  const BulkStream::Terms& terms_;
  PutBlocksResult& result_;

  std::unique_ptr<BulkStream> stream_;
  std::vector<size_t> wanted_;
  bool asked_source_ = false;
  bool flushed_ = false;  // nothing is left on its way to the stream
  bool problem_is_ours_ = false;
  bool done_ = false;
  absl::Duration in_source_;
};

}  // namespace

bool EncodesOnDevice(const PutBlocksRequest& request) {
  return request.device != nullptr && request.device->encodes_at_a_time() > 0;
}

Outcome RunPut(const BulkStream::Terms& terms, const SpaceHandle& handle,
               std::optional<StagingLink::Slot> slot, SpaceCoder* coder, const PlaneLayout& layout,
               const PutBlocksRequest& request, size_t blocks, PutBlocksResult* result) {
  result->path = PathOf(slot);
  Encoder encoder = coder == nullptr ? Encoder::kDaemon : Encoder::kCoder;
  if (EncodesOnDevice(request)) encoder = Encoder::kDevice;
  // What leaves through device memory is not encoded: the daemon has it on its own device.
  if (result->path == DataPath::kDeviceMemory) encoder = Encoder::kDaemon;
  return PutCall(std::move(slot), encoder, coder, layout, request, blocks, terms, result)
      .Run(handle);
}

}  // namespace kvstow::client
