// Space over a daemon. Opens itself on the session at hand with the first call that needs it, and
// again when the session changed or the daemon says that it does not know the handle.
//
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "client/call_control.h"
#include "client/daemon_link.h"
#include "client/kvstow/client.h"
#include "client/kvstow/coding.h"
#include "client/space_handle.h"

namespace kvstow::client {

class RemoteSpace : public Space, public std::enable_shared_from_this<RemoteSpace> {
 public:
  // `coder` may be null: then the daemon codes.
  RemoteSpace(std::shared_ptr<DaemonLink> link, PlaneLayout layout,
              std::shared_ptr<SpaceCoder> coder);

  const Fingerprint& fingerprint() const override { return fingerprint_; }
  const PlaneLayout& layout() const override { return layout_; }
  std::vector<BlockKey> Keys(std::span<const uint32_t> tokens, const PromptContext& context,
                             std::span<const std::string> extras) const override;
  Match Lookup(std::span<const BlockKey> keys, const LookupOptions& options) override;
  PutBlocksResult PutBlocks(const PutBlocksRequest& request) override;
  GetBlocksResult GetBlocks(const GetBlocksRequest& request) override;
  void Prefetch(std::span<const BlockKey> keys) override;
  std::unique_ptr<OngoingPut> StartPut(
      PutBlocksRequest request, std::function<void(const PutBlocksResult&)> on_done) override;
  std::unique_ptr<OngoingGet> StartGet(
      GetBlocksRequest request, std::function<void(const GetBlocksResult&)> on_done) override;
  absl::StatusOr<uint64_t> Drop(std::span<const BlockKey> keys) override;
  absl::StatusOr<uint64_t> DropAll() override;

 private:
  using Session = DaemonLink::Session;
  using HandleCall = absl::FunctionRef<Outcome(const SpaceHandle&)>;

  // `control` may be null.
  PutBlocksResult Put(const PutBlocksRequest& request, const Deadline& deadline,
                      CallControl* control);
  GetBlocksResult Get(const GetBlocksRequest& request, const Deadline& deadline,
                      CallControl* control);

  // DaemonLink::Call() with a handle of this space; a handle that the daemon does not know is
  // replaced once.
  absl::Status Call(DaemonLink::Work work, const Deadline& deadline, HandleCall call);
  Outcome CallOn(const Session& session, const Deadline& deadline, HandleCall call);
  Outcome Open(const Session& session, const Deadline& deadline, SpaceHandle* handle)
      ABSL_LOCKS_EXCLUDED(mu_);
  SpaceHandle cached() const ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<uint64_t> Drop(const v1::DropRequest& request);
  // The block arrived damaged: the daemon may not know.
  void TellDamage(const BlockKey& key);

  const std::shared_ptr<DaemonLink> link_;
  const PlaneLayout layout_;
  const Fingerprint fingerprint_;
  const std::shared_ptr<SpaceCoder> coder_;

  mutable absl::Mutex mu_;
  SpaceHandle handle_ ABSL_GUARDED_BY(mu_);  // of an older session when its generation says so
};

}  // namespace kvstow::client
