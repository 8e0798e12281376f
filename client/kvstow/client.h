// The kvstow worker library: everything an inference worker needs to give the KV of finished blocks
// to a kvstow daemon and to get the KV of a shared prefix back.
//
// Two promises hold for every call:
// - It returns by its deadline, whatever the daemon does: absent, stalled, killed, restarted,
// wrong.
//   Only time spent in the caller's own callbacks comes on top.
// - Trouble costs a recompute and nothing else. Lookup answers "no match", GetBlocks "not these
//   blocks", PutBlocks "not stored"; `status` beside the answer says why, for logs. Only OpenSpace
//   fails, and only for a spec that can never work.
// Memory handed to a call is not touched after the call returns.
//
// Thread safety: Client and Space may be used from any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "space/fingerprint.h"
#include "space/plane_layout.h"
#include "space/space_spec.h"

namespace kvstow {

struct ClientOptions {
  // A gRPC target: "unix:/run/kvstow/kvstowd.sock" or "host:port".
  std::string target = "unix:/run/kvstow/kvstowd.sock";
  std::string client_name = "worker";  // shown in the daemon's logs
  // Deadlines of calls that name none. Lookup sits on the path to the first token; Put and Get move
  // gigabytes.
  absl::Duration lookup_deadline = absl::Milliseconds(50);
  absl::Duration get_deadline = absl::Seconds(10);
  absl::Duration put_deadline = absl::Seconds(60);
  absl::Duration control_deadline = absl::Seconds(1);  // Release, Renew, Drop, Stats
  // How long a call may wait for a connection and a session, within its own deadline. While there
  // is none calls fail at once instead, and connecting goes on in the background.
  absl::Duration connect_wait = absl::Seconds(1);
  // Circuit breaker: after this many failures in a row calls are answered "no match" at once, until
  // a trial call, one a cooldown, succeeds. The cooldown doubles up to breaker_max_cooldown.
  int breaker_failures = 3;
  absl::Duration breaker_cooldown = absl::Milliseconds(500);
  absl::Duration breaker_max_cooldown = absl::Seconds(30);
};

// Identifies a lease; 0 is none.
using LeaseHandle = uint64_t;

struct LookupOptions {
  // How long the matched blocks are to be kept from eviction. 0 only looks.
  absl::Duration ttl = absl::Seconds(30);
  // The same non-empty id again renews the earlier lease instead of adding one.
  std::string request_id = {};
  absl::Duration deadline = absl::ZeroDuration();  // 0: ClientOptions::lookup_deadline
};

struct Match {
  size_t blocks = 0;  // whole blocks of the prefix that are stored
  size_t tokens = 0;
  LeaseHandle lease = 0;
  absl::Status status;  // why the answer is "no match", when the daemon did not give it
};

// How faithful stored KV is. Errors are measured on the decoder's output (docs/format.md).
struct Fidelity {
  double nmse = 0;          // sum of squared errors / sum of squares
  double centred_nmse = 0;  // channel means removed from both: what softmax sees of K
  double worst_nmse = 0;    // of one tile
  double worst_centred_nmse = 0;
  double bits_per_entry = 0;  // every stored byte of the planes counted
  double rank_mean = 0;
  uint32_t rank_max = 0;
  double inner_product_bias = 0;
  uint64_t tiles = 0;
  uint64_t tiles_raw = 0;  // kept bit for bit
};

// Blocks to store: a run of consecutive blocks of one prompt.
struct PutBlocksRequest {
  std::vector<BlockKey> keys;
  // Key of the block before keys[0]; ignored when first_position is 0.
  BlockKey parent{};
  uint64_t first_position = 0;  // absolute position of the first token of keys[0]
  // Values of one plane of block keys[block], C order [heads, tokens, dim], plane.raw_bytes bytes
  // that stay valid until the next call of `source` or the return of PutBlocks. Called layer by
  // layer, K before V, blocks ascending, only for blocks that the daemon wants; may wait for the
  // layer to be computed. An empty span gives the Put up.
  std::function<std::span<const std::byte>(const PlaneSpec& plane, size_t block)> source;
  absl::Duration ttl = absl::ZeroDuration();       // above 0: lease what gets stored
  absl::Duration deadline = absl::ZeroDuration();  // 0: ClientOptions::put_deadline
};

struct PutBlocksResult {
  enum class Outcome { kNotStored, kStored, kExisted };
  struct Block {
    Outcome outcome = Outcome::kNotStored;
    // Why it was declined: "full", "no_parent", ...; "over_call_limit" for blocks beyond what the
    // daemon takes in one call.
    std::string refusal;
    uint64_t record_bytes = 0;
    Fidelity k, v;  // of kStored
  };
  std::vector<Block> blocks;  // one a key
  size_t stored = 0, existed = 0;
  uint64_t sent_bytes = 0;    // raw KV that travelled
  uint64_t record_bytes = 0;  // what it takes stored
  Fidelity k, v;              // pooled over the stored blocks
  LeaseHandle lease = 0;
  absl::Status status;  // of the call as a whole
};

struct GetBlocksRequest {
  std::vector<BlockKey> keys;
  std::vector<uint32_t> layers = {};  // model layer numbers, ascending; empty for all of the shard
  // Where one plane of block keys[block] goes: plane.raw_bytes bytes. Called on the caller's
  // thread. An empty span skips the plane.
  std::function<std::span<std::byte>(const PlaneSpec& plane, size_t block)> destination;
  // Optional: all planes of `layer` have been written for blocks [0, usable). Called on the
  // caller's thread, layers ascending, while later layers still travel.
  std::function<void(uint32_t layer, size_t usable)> on_layer;
  absl::Duration deadline = absl::ZeroDuration();  // 0: ClientOptions::get_deadline
};

struct GetBlocksResult {
  // keys[0, usable) were written completely, every plane checked against its checksum. Whatever was
  // written for later blocks is not to be used. DATA_LOSS: the daemon found a block damaged.
  size_t usable = 0;
  uint64_t received_bytes = 0;
  absl::Status status;
};

// A space as this worker's shard sees it. Keeps its handle on the daemon fresh: after a restart of
// the daemon it opens itself again, and the first lookups miss.
class Space {
 public:
  virtual ~Space() = default;

  virtual const Fingerprint& fingerprint() const = 0;
  virtual const PlaneLayout& layout() const = 0;

  // Keys of all whole blocks of a prompt.
  virtual std::vector<BlockKey> Keys(std::span<const uint32_t> tokens,
                                     const PromptContext& context = {},
                                     std::span<const std::string> extras = {}) const = 0;

  // Matches at most the daemon's limit of keys a call, 8,192.
  virtual Match Lookup(std::span<const BlockKey> keys, const LookupOptions& options = {}) = 0;
  virtual PutBlocksResult PutBlocks(const PutBlocksRequest& request) = 0;
  // Gets at most the daemon's limit of blocks a call; `usable` tells.
  virtual GetBlocksResult GetBlocks(const GetBlocksRequest& request) = 0;

  // How many blocks went, descendants included.
  virtual absl::StatusOr<uint64_t> Drop(std::span<const BlockKey> keys) = 0;
  virtual absl::StatusOr<uint64_t> DropAll() = 0;
};

class Client {
 public:
  // Neither blocks nor fails; connects in the background.
  static std::unique_ptr<Client> Create(ClientOptions options);
  virtual ~Client() = default;

  // INVALID_ARGUMENT for a spec or shard that kvstow cannot hold. Needs no daemon.
  virtual absl::StatusOr<std::shared_ptr<Space>> OpenSpace(SpaceSpec spec, Shard shard = {}) = 0;

  // Ends leases early. Best effort: what is lost lapses by itself.
  virtual void Release(LeaseHandle lease) = 0;
  // False when the lease is gone or the daemon did not answer.
  virtual bool Renew(LeaseHandle lease, absl::Duration ttl) = 0;

  // For logs and metrics of the worker.
  struct Health {
    bool connected = false;  // a session is open
    bool breaker_open = false;
    bool draining = false;    // the daemon said so
    uint64_t sessions = 0;    // opened since the start: above 1, the daemon went away in between
    uint64_t failures = 0;    // calls that got no answer
    uint64_t shed = 0;        // calls that the breaker answered
    std::string instance_id;  // of the daemon
    absl::Status last_error;
  };
  virtual Health health() const = 0;
};

}  // namespace kvstow
