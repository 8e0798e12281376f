#include "tests/testing/raw_worker.h"

#include <tuple>

#include "gtest/gtest.h"
#include "server/rpc/convert.h"

namespace kvstow::testing {

v1::SpaceSpec SmallSpec() {
  v1::SpaceSpec spec;
  spec.mutable_model()->set_name("small");
  v1::LayerGroup* group = spec.add_groups();
  group->add_layers(0);
  group->add_layers(1);
  group->set_kind(v1::LayerGroup::KIND_KV);
  group->set_kv_heads(2);
  group->set_k_dim(64);
  group->set_v_dim(64);
  group->set_dtype(v1::DTYPE_FP16);
  spec.set_block_tokens(128);
  spec.mutable_codec()->set_codec(v1::CODEC_EOPTSHRINKQ);
  spec.mutable_codec()->set_k_bits(2);
  spec.mutable_codec()->set_v_bits(2);
  spec.mutable_codec()->set_shrinker(v1::SHRINKER_TRUNCATE);
  return spec;
}

PlaneLayout SmallLayout() {
  return *PlaneLayout::Create(*FromProto(SmallSpec()), *FromProto(v1::Shard()));
}

std::string KeyBytes(const BlockKey& key) { return BytesOf(key); }

std::string KeyBytes(const std::vector<BlockKey>& keys) {
  std::string bytes;
  for (const BlockKey& key : keys) bytes += BytesOf(key);
  return bytes;
}

std::vector<BlockKey> SmallKeys(size_t blocks, uint32_t seed) {
  const std::vector<uint32_t> tokens(blocks * 128, seed);
  return KeysOf(RootKey(FingerprintOf(*FromProto(SmallSpec())), {}), tokens, 128);
}

RawWorker::RawWorker(const std::string& target)
    : RawWorker(grpc::CreateChannel(target, grpc::InsecureChannelCredentials())) {}

RawWorker::RawWorker(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)), stub_(v1::Kvstow::NewStub(channel_)) {
  v1::SessionRequest request;
  request.set_client_name("test");
  // A daemon with many connections to take, slowed by a sanitizer, may outlast an attempt.
  session_context_.set_wait_for_ready(true);
  session_stream_ = stub_->Session(&session_context_, request);
  v1::SessionEvent event;
  EXPECT_TRUE(session_stream_->Read(&event)) << "no session";
  session_ = event.session_id();
}

RawWorker::~RawWorker() { EndSession(); }

void RawWorker::EndSession() {
  if (session_stream_ == nullptr) return;
  session_context_.TryCancel();
  session_stream_->Finish();
  session_stream_.reset();
}

std::unique_ptr<grpc::ClientContext> RawWorker::Context(int seconds) const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  return context;
}

grpc::Status RawWorker::OpenSpace(const v1::SpaceSpec& spec, v1::OpenSpaceResponse* response,
                                  const v1::Shard& shard) {
  v1::OpenSpaceRequest request;
  request.set_session_id(session_);
  *request.mutable_spec() = spec;
  *request.mutable_shard() = shard;
  return stub_->OpenSpace(Context().get(), request, response);
}

void RawWorker::OpenSmall(const v1::Shard& shard) {
  v1::OpenSpaceResponse response;
  const grpc::Status status = OpenSpace(SmallSpec(), &response, shard);
  ASSERT_TRUE(status.ok()) << status.error_message();
  space_ = response.space();
}

uint32_t RawWorker::Lookup(const std::vector<BlockKey>& keys, uint64_t ttl_ms, uint64_t* lease) {
  v1::LookupRequest request;
  request.set_session_id(session_);
  request.set_space(space_);
  request.set_keys(KeyBytes(keys));
  request.set_ttl_ms(ttl_ms);
  v1::LookupResponse response;
  const grpc::Status status = stub_->Lookup(Context().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  if (lease != nullptr) *lease = response.lease();
  return response.matched_blocks();
}

v1::PutRequest RawWorker::Announce(const std::vector<BlockKey>& keys, uint64_t first_position,
                                   const BlockKey& parent, uint64_t ttl_ms) const {
  v1::PutRequest request;
  auto* announce = request.mutable_announce();
  announce->set_session_id(session_);
  announce->set_space(space_);
  announce->set_ttl_ms(ttl_ms);
  BlockKey before = parent;
  for (const BlockKey& key : keys) {
    auto* block = announce->add_blocks();
    block->set_key(KeyBytes(key));
    block->set_first_position(first_position);
    if (first_position != 0) block->set_parent(KeyBytes(before));
    before = key;
    first_position += 128;
  }
  return request;
}

v1::PutRequest RawWorker::ChunkOf(uint32_t layer, v1::PlaneKind kind, uint32_t block,
                                  uint32_t offset, uint32_t plane_bytes, const std::string& data) {
  v1::PutRequest request;
  auto* chunk = request.mutable_chunk();
  auto* segment = chunk->add_segments();
  segment->set_layer(layer);
  segment->set_kind(kind);
  segment->set_block(block);
  segment->set_offset(offset);
  segment->set_length(static_cast<uint32_t>(data.size()));
  segment->set_plane_bytes(plane_bytes);
  chunk->set_data(data);
  return request;
}

v1::PutRequest RawWorker::Commit() {
  v1::PutRequest request;
  request.mutable_commit();
  return request;
}

std::vector<v1::PutRequest> RawWorker::ChunksOf(const std::vector<Planes>& blocks) {
  std::vector<v1::PutRequest> chunks;
  const PlaneLayout layout = SmallLayout();
  for (size_t p = 0; p < layout.planes().size(); ++p) {
    for (uint32_t b = 0; b < blocks.size(); ++b) {
      const auto& bytes = blocks[b][p];
      chunks.push_back(
          ChunkOf(layout.planes()[p].layer, ToProto(layout.planes()[p].kind), b, 0,
                  static_cast<uint32_t>(bytes.size()),
                  std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
    }
  }
  return chunks;
}

RawWorker::PutOutcome RawWorker::Put(const std::vector<BlockKey>& keys,
                                     const std::vector<Planes>& blocks, uint64_t first_position,
                                     const BlockKey& parent, uint64_t ttl_ms) {
  PutOutcome outcome;
  auto context = Context();
  auto stream = stub_->Put(context.get());
  stream->Write(Announce(keys, first_position, parent, ttl_ms));
  v1::PutResponse response;
  if (!stream->Read(&response)) {
    outcome.status = stream->Finish();
    return outcome;
  }
  for (const auto& answer : response.answers().answers()) outcome.answers.push_back(answer);
  const PlaneLayout layout = SmallLayout();
  for (const v1::PutRequest& chunk : ChunksOf(blocks)) {
    const uint32_t block = chunk.chunk().segments(0).block();
    if (outcome.answers[block].kind() != v1::PutResponse::Answer::SEND) continue;
    stream->Write(chunk);
  }
  stream->Write(Commit());
  stream->WritesDone();
  if (stream->Read(&response)) outcome.results = response.results();
  outcome.status = stream->Finish();
  return outcome;
}

v1::GetRequest RawWorker::Open(const std::vector<BlockKey>& keys, v1::Form form,
                               const std::vector<uint32_t>& layers) const {
  v1::GetRequest request;
  v1::GetRequest::Open& open = *request.mutable_open();
  open.set_session_id(session_);
  open.set_space(space_);
  open.set_keys(KeyBytes(keys));
  open.set_form(form);
  for (uint32_t layer : layers) open.add_layers(layer);
  return request;
}

std::unique_ptr<RawWorker::GetStream> RawWorker::StartGet(grpc::ClientContext* context,
                                                          const std::vector<BlockKey>& keys,
                                                          v1::Form form,
                                                          const std::vector<uint32_t>& layers) {
  auto stream = stub_->Get(context);
  stream->Write(Open(keys, form, layers));
  return stream;
}

RawWorker::GetOutcome RawWorker::Get(const std::vector<BlockKey>& keys, v1::Form form,
                                     const std::vector<uint32_t>& layers) {
  GetOutcome outcome;
  auto context = Context();
  auto stream = StartGet(context.get(), keys, form, layers);
  v1::GetResponse response;
  while (stream->Read(&response)) {
    for (const auto& answer : response.answers().answers()) outcome.answers.push_back(answer);
    if (response.has_damage()) outcome.damage.push_back(response.damage());
    if (!response.has_chunk()) continue;
    size_t at = 0;
    for (const auto& segment : response.chunk().segments()) {
      std::string& plane = outcome.planes[{segment.layer(), segment.kind(), segment.block()}];
      EXPECT_EQ(plane.size(), segment.offset());
      plane += response.chunk().data().substr(at, segment.length());
      at += segment.length();
    }
    EXPECT_EQ(at, response.chunk().data().size());
  }
  outcome.status = stream->Finish();
  return outcome;
}

v1::StatsResponse RawWorker::Stats() {
  v1::StatsResponse response;
  const grpc::Status status = stub_->Stats(Context().get(), v1::StatsRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::InspectResponse RawWorker::Inspect(const BlockKey& key, bool drop_damaged) {
  v1::InspectRequest request;
  request.set_drop_damaged(drop_damaged);
  request.set_session_id(session_);
  request.set_space(space_);
  request.set_key(KeyBytes(key));
  v1::InspectResponse response;
  const grpc::Status status = stub_->Inspect(Context().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

uint64_t RawWorker::Drop(const std::vector<BlockKey>& keys) {
  v1::DropRequest request;
  request.set_session_id(session_);
  request.set_space(space_);
  request.set_keys(KeyBytes(keys));
  v1::DropResponse response;
  const grpc::Status status = stub_->Drop(Context().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.dropped_blocks();
}

}  // namespace kvstow::testing
