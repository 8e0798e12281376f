/* kvstow's worker library for C and for every language that can call C.
 *
 * What kvstow/client.h promises holds here, too: every call returns by its deadline; trouble with
 * the daemon is a miss, with the reason beside it, never an error of the call; memory handed to a
 * call is not touched after it returned. Only programming errors and impossible specs are errors.
 *
 * Objects are created and destroyed by the functions named so; a space may outlive its client. All
 * functions are thread-safe. Strings are UTF-8 and end in 0. Times are in milliseconds; a deadline
 * of 0 takes the default.
 *
 * The ABI grows only: fields are appended, and `size`, which the caller sets to sizeof, tells which
 * fields it knows. Zero in a field means its default. */
#ifndef KVSTOW_KVSTOW_H_
#define KVSTOW_KVSTOW_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvstow_client kvstow_client;
typedef struct kvstow_space kvstow_space;
typedef struct kvstow_coder kvstow_coder;

/* As absl::StatusCode and gRPC number them. */
typedef enum {
  KVSTOW_OK = 0,
  KVSTOW_CANCELLED = 1,
  KVSTOW_INVALID_ARGUMENT = 3,
  KVSTOW_DEADLINE_EXCEEDED = 4,
  KVSTOW_PERMISSION_DENIED = 7,
  KVSTOW_RESOURCE_EXHAUSTED = 8,
  KVSTOW_FAILED_PRECONDITION = 9,
  KVSTOW_INTERNAL = 13,
  KVSTOW_UNAVAILABLE = 14,
  KVSTOW_DATA_LOSS = 15,
  KVSTOW_UNAUTHENTICATED = 16
} kvstow_code;

/* Code and reason; the message is cut to fit. */
typedef struct {
  int code;
  char message[252];
} kvstow_status;

typedef enum { KVSTOW_PATH_AUTO = 0, KVSTOW_PATH_GRPC = 1, KVSTOW_PATH_SHM = 2 } kvstow_path;

typedef struct {
  size_t size;
  const char* target;      /* "unix:/run/kvstow/kvstowd.sock" or "host:port"; NULL: the default */
  const char* client_name; /* for the daemon's logs */
  int path;                /* kvstow_path */
  uint32_t connect_wait_ms;
  uint32_t lookup_deadline_ms;
  uint32_t get_deadline_ms;
  uint32_t put_deadline_ms;
  /* As kvstow::ClientSecurity; NULL for none. */
  const char* ca_file;
  const char* certificate_file;
  const char* key_file;
  const char* server_name;
  const char* token_file;
  double prefill_tokens_per_second; /* how fast the worker prefills, for metrics; 0: not known */
  const kvstow_coder* coder;        /* codes KV in this process; NULL: the daemon does */
} kvstow_options;

typedef enum { KVSTOW_FP16 = 1, KVSTOW_BF16 = 2, KVSTOW_FP32 = 3 } kvstow_dtype;
typedef enum { KVSTOW_KV = 1, KVSTOW_LATENT = 2, KVSTOW_OPAQUE = 3 } kvstow_group_kind;
typedef enum { KVSTOW_RAW = 1, KVSTOW_TURBOQUANT = 2, KVSTOW_EOPTSHRINKQ = 3 } kvstow_codec;
typedef enum {
  KVSTOW_PLANE_K = 0,
  KVSTOW_PLANE_V = 1,
  KVSTOW_PLANE_LATENT = 2,
  KVSTOW_PLANE_OPAQUE = 3
} kvstow_plane_kind;

/* Layers that look alike. */
typedef struct {
  size_t size;
  const uint32_t* layers; /* model layer numbers */
  size_t layer_count;
  int kind;          /* kvstow_group_kind; 0: KVSTOW_KV */
  int dtype;         /* kvstow_dtype; 0: KVSTOW_FP16 */
  uint32_t kv_heads; /* of the whole model */
  uint32_t k_dim;
  uint32_t v_dim;
  uint32_t window;
  uint64_t opaque_bytes;
  const float* inverse_frequencies; /* of the rotary embedding; NULL for none */
  size_t frequency_count;
  int rotary_interleaved;
  uint32_t rotary_offset;
} kvstow_group;

typedef struct {
  size_t size;
  const char* model;
  const char* revision;
  const void* weights_digest;
  size_t weights_digest_bytes;
  const kvstow_group* groups;
  size_t group_count;
  uint32_t block_tokens; /* 0: 128 */
  int codec;             /* kvstow_codec; 0: KVSTOW_EOPTSHRINKQ */
  uint32_t k_bits;       /* 0: 2 */
  uint32_t v_bits;
  double max_relative_error;
  const char* key_scheme;
  /* This worker's slice. */
  uint32_t shard_index;
  const uint32_t* expected_shards; /* NULL: this one alone */
  size_t expected_shard_count;
  uint32_t tensor_rank;
  uint32_t tensor_size; /* 0: 1 */
  uint32_t first_layer;
  uint32_t layer_count; /* 0: all */
} kvstow_spec;

/* A plane of one block, which never grows: C order [heads, tokens, dim], or opaque. */
typedef struct {
  uint32_t layer;
  int kind; /* kvstow_plane_kind */
  uint32_t heads, tokens, dim;
  size_t bytes;
} kvstow_plane;

/* The CPU codec, on so many threads; 0: 2. Of the library kvstow_coding (kvstow::coding). NULL only
 * when memory or threads are out. Any number of clients may share one, and keep it: it may be
 * destroyed once they are created. */
kvstow_coder* kvstow_cpu_coder_create(uint32_t threads);
void kvstow_coder_destroy(kvstow_coder* coder);

/* NULL only when memory or threads are out. An unknown path is AUTO. Connects in the background. */
kvstow_client* kvstow_client_create(const kvstow_options* options);
void kvstow_client_destroy(kvstow_client* client);

/* NULL for a spec that kvstow cannot hold; `status` (may be NULL) says why. Needs no daemon. */
kvstow_space* kvstow_space_open(kvstow_client* client, const kvstow_spec* spec,
                                kvstow_status* status);
void kvstow_space_destroy(kvstow_space* space);
/* 32 bytes. */
void kvstow_space_fingerprint(const kvstow_space* space, uint8_t* fingerprint);
/* Planes of one block, layer by layer; how many there are. Fills at most `capacity`. */
size_t kvstow_space_planes(const kvstow_space* space, kvstow_plane* planes, size_t capacity);

/* Keys of the prompt's whole blocks, 32 bytes each, for at most `capacity` of them; returns how
 * many blocks there are. */
size_t kvstow_keys(const kvstow_space* space, const uint32_t* tokens, size_t token_count,
                   const char* adapter_digest, const char* cache_salt, uint8_t* keys,
                   size_t capacity);

/* How many of the keys' prefix are stored. A ttl above 0 leases them; the lease, 0 for none, goes
 * to `lease` if that is not NULL. */
size_t kvstow_lookup(kvstow_space* space, const uint8_t* keys, size_t key_count, uint32_t ttl_ms,
                     uint32_t deadline_ms, uint64_t* lease, kvstow_status* status);
void kvstow_release(kvstow_client* client, uint64_t lease);

/* Writes a plane to `to`, plane->bytes long; 0 gives the Put up. */
typedef int (*kvstow_fill)(void* context, const kvstow_plane* plane, size_t block, void* to);

typedef struct {
  size_t size;
  size_t stored, existed;
  uint64_t sent_bytes, record_bytes;
  double k_nmse, v_nmse, k_bits_per_entry, v_bits_per_entry; /* over the stored blocks */
  int path;                                                  /* kvstow_path, the one taken */
} kvstow_put_result;

/* Stores a run of consecutive blocks. `parent` is the key before keys[0], NULL for a prompt's first
 * block; `fill` is called on this thread, layer by layer, for the blocks that the daemon wants.
 * Returns how many blocks are stored now, those that were before included. */
size_t kvstow_put(kvstow_space* space, const uint8_t* keys, size_t key_count, const uint8_t* parent,
                  uint64_t first_position, kvstow_fill fill, void* context, uint32_t deadline_ms,
                  kvstow_put_result* result, kvstow_status* status);

typedef struct {
  size_t size;
  const uint8_t* keys;
  size_t key_count;
  const uint8_t* parent;
  uint64_t first_position;
  kvstow_fill fill;
  void* context;
  uint32_t deadline_ms;
  /* Opts in to routers being told which tokens the blocks are of (KV events): those of all keys'
   * blocks, one block after the other. They are prompt content; NULL tells nobody. */
  const uint32_t* token_ids;
  size_t token_count;
} kvstow_put_request;

/* kvstow_put with all that there is to say; `request->keys` and what follows as there. */
size_t kvstow_put_blocks(kvstow_space* space, const kvstow_put_request* request,
                         kvstow_put_result* result, kvstow_status* status);

/* Takes a plane from where it arrived; the bytes are gone when it returns. */
typedef void (*kvstow_take)(void* context, const kvstow_plane* plane, size_t block,
                            const void* from);
/* All planes of the layer have been taken for blocks [0, usable). */
typedef void (*kvstow_on_layer)(void* context, uint32_t layer, size_t usable);

/* Gets blocks back; both callbacks run on this thread, on_layer may be NULL. Returns how many
 * blocks of the prefix are complete: only those are to be used. */
size_t kvstow_get(kvstow_space* space, const uint8_t* keys, size_t key_count, kvstow_take take,
                  kvstow_on_layer on_layer, void* context, uint32_t deadline_ms,
                  kvstow_status* status);

/* Of this library, "0.1.0". */
const char* kvstow_version(void);

#ifdef __cplusplus
}
#endif
#endif /* KVSTOW_KVSTOW_H_ */
