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
// Memory handed to a call is not touched after the call returns, or its Ongoing is done or
// cancelled.
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

class DeviceKv;    // kvstow/device_kv.h
class PlaneCoder;  // kvstow/coding.h
class WorkerGpu;   // kvstow/cuda.h makes one

// How bulk bytes travel.
enum class DataPath {
  kAuto,          // the fastest that works
  kGrpc,          // in the stream: works everywhere
  kSharedMemory,  // through memory shared with a daemon on this host
  kDeviceMemory,  // through device memory shared with a daemon on this GPU; KV in device memory
                  // only
};
absl::string_view Name(DataPath path);

// How client and daemon know each other. Files are PEM, but the token's, and read again when they
// change.
struct ClientSecurity {
  // Who signs the daemon's certificate; makes TCP use TLS.
  std::string ca_file = {};
  // The client's own certificate and key, where the daemon asks for one.
  std::string certificate_file = {}, key_file = {};
  // The name in the daemon's certificate, where it is not the target's host.
  std::string server_name = {};
  // A bearer token, the first line; never sent over TCP without TLS.
  std::string token_file = {};
};

struct ClientOptions {
  // A gRPC target: "unix:/run/kvstow/kvstowd.sock" or "host:port".
  std::string target = "unix:/run/kvstow/kvstowd.sock";
  std::string client_name = "worker";  // shown in the daemon's logs
  ClientSecurity security;
  // How fast this worker prefills, where it knows: the daemon then counts the seconds that hits of
  // this client's lookups saved it. 0: not known.
  double prefill_tokens_per_second = 0;
  // A path that is named is used or the call is answered "no match"; kAuto takes the next one.
  DataPath path = DataPath::kAuto;
  // Where the engine's KV lies, for DataPath::kDeviceMemory.
  std::shared_ptr<WorkerGpu> gpu = {};
  // Codes KV in this process (kvstow/coding.h); null: the daemon does.
  std::shared_ptr<PlaneCoder> coder = nullptr;
  // Deadlines of calls that name none. Lookup sits on the path to the first token; Put and Get move
  // gigabytes.
  absl::Duration lookup_deadline = absl::Milliseconds(50);
  absl::Duration get_deadline = absl::Seconds(10);
  absl::Duration put_deadline = absl::Seconds(60);
  absl::Duration control_deadline = absl::Seconds(1);  // Release, Renew, Drop, Stats
  // How long a call may wait for a connection and a session, within its own deadline. While there
  // is none calls fail at once instead, and connecting goes on in the background.
  absl::Duration connect_wait = absl::Seconds(1);
  // Threads for calls that are started and not waited for; Gets and Puts have their own.
  size_t get_threads = 4;
  size_t put_threads = 2;
  // Started Puts that may wait in line for a thread. One that waits keeps the engine's pages from
  // being reused; with more the daemon is behind, and the next are not stored.
  size_t puts_waiting = 8;
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
  // that stay valid until the next call of `source` or the end of the call. Called layer by layer,
  // K before V, blocks ascending, only for blocks that the daemon wants; may wait for the layer to
  // be computed. An empty span gives the Put up.
  std::function<std::span<const std::byte>(const PlaneSpec& plane, size_t block)> source;
  // Instead of `source`: writes the plane, plane.raw_bytes bytes, where it is to travel from; saves
  // a copy where the engine's layout is another one (kvstow/pages.h). False gives the Put up.
  std::function<bool(const PlaneSpec& plane, size_t block, std::span<std::byte> to)> fill = {};
  // Instead of both: the engine's KV in device memory (kvstow/device_kv.h), whose stream the planes
  // of a layer are gathered on, and encoded where it does that, once they are asked for: what
  // computes them is enqueued before.
  std::shared_ptr<DeviceKv> device = {};
  absl::Duration ttl = absl::ZeroDuration();       // above 0: lease what gets stored
  absl::Duration deadline = absl::ZeroDuration();  // 0: ClientOptions::put_deadline
  // Opts in to routers being told which tokens the blocks are of, where the daemon publishes KV
  // events: the tokens of all keys' blocks, one block after the other. They are prompt content;
  // empty, the default, tells nobody. Of a call with more than 200,000 the first blocks' are told.
  std::vector<uint32_t> token_ids = {};
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
  uint64_t sent_bytes = 0;    // KV that travelled: raw, or encoded where the worker codes
  uint64_t record_bytes = 0;  // what it takes stored
  Fidelity k, v;              // pooled over the stored blocks
  LeaseHandle lease = 0;
  DataPath path = DataPath::kAuto;  // the one taken; kAuto when no call was made
  absl::Status status;              // of the call as a whole
};

struct GetBlocksRequest {
  std::vector<BlockKey> keys;
  std::vector<uint32_t> layers = {};  // model layer numbers, ascending; empty for all of the shard
  // Where one plane of block keys[block] goes: plane.raw_bytes bytes. An empty span skips the
  // plane.
  std::function<std::span<std::byte>(const PlaneSpec& plane, size_t block)> destination;
  // Instead of `destination`: takes the plane, C order [heads, tokens, dim], from where it arrived;
  // the bytes are gone when it returns.
  std::function<void(const PlaneSpec& plane, size_t block, std::span<const std::byte> from)> take =
      {};
  // Instead of both: the engine's KV in device memory. The copies have been done when the call
  // returns, and those of a layer when on_layer is called.
  std::shared_ptr<DeviceKv> device = {};
  // Optional: all planes of `layer` have been written for blocks [0, usable). Layers ascending,
  // while later layers still travel.
  std::function<void(uint32_t layer, size_t usable)> on_layer;
  absl::Duration deadline = absl::ZeroDuration();  // 0: ClientOptions::get_deadline
};

struct GetBlocksResult {
  // keys[0, usable) were written completely, every plane checked against its checksum. Whatever was
  // written for later blocks is not to be used. DATA_LOSS: a block was found damaged, by the daemon
  // or, where the worker codes, on its arrival.
  size_t usable = 0;
  uint64_t received_bytes = 0;      // KV that travelled: raw, or encoded where the worker codes
  DataPath path = DataPath::kAuto;  // the one taken; kAuto when no call was made
  absl::Status status;
};

// A call that goes on while its caller does something else. The callbacks of its request run on a
// thread of the client's, one at a time; only of a call that never began `on_done` runs on the
// stack of who started it, waits for it or gives it up. Destroying it gives it up.
//
// Thread-safe.
template <typename Result>
class Ongoing {
 public:
  virtual ~Ongoing() = default;
  virtual bool done() const = 0;
  // Waits for the end, which comes by the call's deadline. Not from its callbacks.
  virtual const Result& Wait() = 0;
  // Ends the call; what it held in the daemon is freed. Once it has returned none of the request's
  // callbacks runs any more, and the caller's memory is its own. Not from its callbacks.
  virtual void Cancel() = 0;
};
using OngoingGet = Ongoing<GetBlocksResult>;

class OngoingPut : public Ongoing<PutBlocksResult> {
 public:
  // The layer and those before it have been computed: the request is asked for their planes.
  virtual void LayerReady(uint32_t layer) = 0;
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
  // These blocks will be wanted soon: what the daemon keeps in slower memory is moved up meanwhile.
  // Best effort, returns when the daemon has heard of it.
  virtual void Prefetch(std::span<const BlockKey> keys) = 0;

  // PutBlocks and GetBlocks without waiting: deadlines count from here. A Put asks for the planes
  // of a layer after its LayerReady. `on_done` is the last callback. Puts that cannot even wait in
  // line, since too many do, are not stored: RESOURCE_EXHAUSTED.
  virtual std::unique_ptr<OngoingPut> StartPut(
      PutBlocksRequest request, std::function<void(const PutBlocksResult&)> on_done = nullptr) = 0;
  virtual std::unique_ptr<OngoingGet> StartGet(
      GetBlocksRequest request, std::function<void(const GetBlocksResult&)> on_done = nullptr) = 0;

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
    DataPath path = DataPath::kGrpc;  // what the next Put or Get would take
    absl::Status no_shared_memory;    // why not through memory shared on the host
    absl::Status no_device_memory;    // why not through device memory
  };
  virtual Health health() const = 0;
};

}  // namespace kvstow
