// kvstow get: writes the stored prefix of a prompt to .npy arrays.
#include <chrono>
#include <cstdio>

#include "client/tool/format.h"
#include "client/tool/kv_arrays.h"
#include "client/tool/space_command.h"

namespace kvstow::tool {
namespace {

class Get : public SpaceCommand {
 public:
  std::string name() const override { return "get"; }
  std::string summary() const override { return "write the stored prefix of a prompt to .npy"; }
  std::string details() const override {
    return "Looks the prompt up, gets what is stored of it and writes arrays [layers, heads, "
           "matched\n"
           "tokens, dim]. Exits with 1, and writes nothing, when nothing matches.\n\n"
           "Example:\n"
           "  kvstow get --tokens=T.npy --space=space.textproto --out_k=K.npy --out_v=V.npy\n";
  }

  int Run(const Connection& connection) override {
    auto client = connection.MakeClient();
    auto space = client->OpenSpace(layout().spec(), layout().shard());
    if (!space.ok()) return Complain(space.status(), connection);
    const Match match = (*space)->Lookup(keys());
    if (!match.status.ok()) return Complain(match.status, connection);
    const int code = match.blocks == 0 ? NoMatch() : Fetch(space->get(), match.blocks, connection);
    client->Release(match.lease);
    return code;
  }

 protected:
  void AddOwnFlags(FlagSet* flags) override {
    flags->Group("Arrays");
    flags->Add("out_k", &out_k_, "Where K goes; not written when empty");
    flags->Add("out_v", &out_v_, "Where V goes; not written when empty");
  }

 private:
  int NoMatch() {
    std::printf("no match\n");
    return kExitNo;
  }

  int Fetch(Space* space, size_t blocks, const Connection& connection) {
    auto arrays = KvArrays::Make(layout(), blocks);
    if (!arrays.ok()) return Complain(arrays.status(), connection);
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<uint64_t> bytes = FetchAll(space, blocks, &*arrays);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!bytes.ok()) return Complain(bytes.status(), connection);
    absl::Status written = arrays->Write(out_k_, out_v_);
    if (!written.ok()) {
      std::fprintf(stderr, "kvstow: %s\n", std::string(written.message()).c_str());
      return kExitFailed;
    }
    std::printf("%zu of %zu blocks, %zu tokens, %s in %.3f s, %.1f MB/s of raw KV\n", blocks,
                keys().size(), arrays->tokens(), Bytes(*bytes).c_str(), took.count(),
                *bytes / 1e6 / took.count());
    return kExitOk;
  }

  // In as many calls as the daemon's limit asks for.
  absl::StatusOr<uint64_t> FetchAll(Space* space, size_t blocks, KvArrays* arrays) {
    uint64_t bytes = 0;
    for (size_t first = 0; first < blocks;) {
      GetBlocksRequest request;
      request.keys.assign(keys().begin() + first, keys().begin() + blocks);
      request.destination = [this](const PlaneSpec& plane, size_t block) {
        return Plane(plane, block);
      };
      pending_.clear();
      const GetBlocksResult result = space->GetBlocks(request);
      if (!result.status.ok()) return result.status;
      if (result.usable == 0) return absl::NotFoundError("a block went away in between");
      for (auto& [plane, block, data] : pending_) {
        if (block < result.usable) arrays->CopyIn(layout(), *plane, first + block, data);
      }
      first += result.usable;
      bytes += result.usable * layout().raw_bytes();
    }
    return bytes;
  }

  std::span<std::byte> Plane(const PlaneSpec& plane, size_t block) {
    pending_.push_back({&plane, block, std::vector<std::byte>(plane.raw_bytes)});
    return pending_.back().data;
  }

  struct Pending {
    const PlaneSpec* plane;
    size_t block;
    std::vector<std::byte> data;
  };

  std::string out_k_, out_v_;
  std::vector<Pending> pending_;
};

}  // namespace

std::unique_ptr<Command> MakeGet() { return std::make_unique<Get>(); }

}  // namespace kvstow::tool
