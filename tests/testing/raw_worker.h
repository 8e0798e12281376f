// A worker made of bare generated stubs, for tests that say what no well-behaved client would. All
// calls have generous deadlines; a test that hits one fails.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "kvstow/v1/kvstow.grpc.pb.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"

namespace kvstow::testing {

// Two layers of two KV heads, d = 64, FP16: 128 KiB a block.
v1::SpaceSpec SmallSpec();
// The core form of it.
PlaneLayout SmallLayout();

using Planes = std::vector<std::vector<std::byte>>;

class RawWorker {
 public:
  // Opens a session at `target`.
  explicit RawWorker(const std::string& target);
  explicit RawWorker(std::shared_ptr<grpc::Channel> channel);
  ~RawWorker();

  v1::Kvstow::Stub& stub() { return *stub_; }
  std::unique_ptr<grpc::ClientContext> Context(int seconds = 60) const;
  const std::string& session() const { return session_; }
  // Ends the session stream and waits until the server has ended it.
  void EndSession();

  grpc::Status OpenSpace(const v1::SpaceSpec& spec, v1::OpenSpaceResponse* response,
                         const v1::Shard& shard = {});
  // Opens SmallSpec and keeps its handle.
  void OpenSmall(const v1::Shard& shard = {});
  uint64_t space() const { return space_; }

  uint32_t Lookup(const std::vector<BlockKey>& keys, uint64_t ttl_ms = 0,
                  uint64_t* lease = nullptr);

  struct PutOutcome {
    grpc::Status status;
    std::vector<v1::PutResponse::Answer> answers;
    v1::PutResponse::Results results;
  };
  // blocks[i] are the planes of keys[i]; the chain hangs on `parent` at `first_position`.
  PutOutcome Put(const std::vector<BlockKey>& keys, const std::vector<Planes>& blocks,
                 uint64_t first_position = 0, const BlockKey& parent = {}, uint64_t ttl_ms = 0);

  v1::GetRequest Open(const std::vector<BlockKey>& keys, v1::Form form = v1::FORM_DECODED,
                      const std::vector<uint32_t>& layers = {}) const;
  using GetStream = grpc::ClientReaderWriter<v1::GetRequest, v1::GetResponse>;
  std::unique_ptr<GetStream> StartGet(grpc::ClientContext* context,
                                      const std::vector<BlockKey>& keys,
                                      v1::Form form = v1::FORM_DECODED,
                                      const std::vector<uint32_t>& layers = {});

  struct GetOutcome {
    grpc::Status status;
    std::vector<v1::GetResponse::Answer> answers;
    std::vector<v1::GetResponse::Damage> damage;
    // By (layer, kind, block).
    std::map<std::tuple<uint32_t, int, uint32_t>, std::string> planes;
  };
  GetOutcome Get(const std::vector<BlockKey>& keys, v1::Form form = v1::FORM_DECODED,
                 const std::vector<uint32_t>& layers = {});

  v1::StatsResponse Stats();
  v1::InspectResponse Inspect(const BlockKey& key, bool drop_damaged = false);
  uint64_t Drop(const std::vector<BlockKey>& keys);

  // Messages of a Put, for tests that send them one by one.
  v1::PutRequest Announce(const std::vector<BlockKey>& keys, uint64_t first_position = 0,
                          const BlockKey& parent = {}, uint64_t ttl_ms = 0) const;
  static v1::PutRequest ChunkOf(uint32_t layer, v1::PlaneKind kind, uint32_t block, uint32_t offset,
                                uint32_t plane_bytes, const std::string& data);
  static v1::PutRequest Commit();
  // The chunks of whole planes of these blocks, one a plane, in order.
  static std::vector<v1::PutRequest> ChunksOf(const std::vector<Planes>& blocks);

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Kvstow::Stub> stub_;
  grpc::ClientContext session_context_;
  std::unique_ptr<grpc::ClientReader<v1::SessionEvent>> session_stream_;
  std::string session_;
  uint64_t space_ = 0;
};

std::string KeyBytes(const BlockKey& key);
std::string KeyBytes(const std::vector<BlockKey>& keys);
// Keys of a prompt of `blocks` blocks of SmallSpec, different for each seed.
std::vector<BlockKey> SmallKeys(size_t blocks, uint32_t seed = 0);

}  // namespace kvstow::testing
