/* The C ABI as a C program uses it, against a daemon whose socket is argv[1]; with "none" as
 * argv[1] there is no daemon, and every call is a miss. Exits 0 when all is as it must be. */
#include <kvstow/kvstow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 3

static int failures = 0;

static void expect(int truth, const char* what, const kvstow_status* status) {
  if (truth) return;
  ++failures;
  fprintf(stderr, "c_api_test: not so: %s (%d: %s)\n", what, status->code, status->message);
}

struct pages {
  unsigned char* bytes[BLOCKS][4]; /* by block and plane */
  int fills, takes, layers;
};

static int plane_index(const kvstow_plane* plane) { return (int)plane->layer * 2 + plane->kind; }

static int fill(void* context, const kvstow_plane* plane, size_t block, void* to) {
  struct pages* pages = context;
  ++pages->fills;
  memcpy(to, pages->bytes[block][plane_index(plane)], plane->bytes);
  return 1;
}

static int give_up(void* context, const kvstow_plane* plane, size_t block, void* to) {
  (void)context, (void)plane, (void)block, (void)to;
  return 0;
}

static void take(void* context, const kvstow_plane* plane, size_t block, const void* from) {
  struct pages* pages = context;
  ++pages->takes;
  expect(memcmp(from, pages->bytes[block][plane_index(plane)], plane->bytes) == 0,
         "bytes come back", &(kvstow_status){0});
}

static void on_layer(void* context, uint32_t layer, size_t usable) {
  struct pages* pages = context;
  expect((int)layer == pages->layers++ && usable == BLOCKS, "layers in order", &(kvstow_status){0});
}

static kvstow_space* open_space(kvstow_client* client, kvstow_status* status) {
  static const uint32_t layers[] = {0, 1};
  const kvstow_group group = {.size = sizeof(group),
                              .layers = layers,
                              .layer_count = 2,
                              .kv_heads = 2,
                              .k_dim = 64,
                              .v_dim = 64};
  const kvstow_spec spec = {.size = sizeof(spec),
                            .model = "c-api-test",
                            .groups = &group,
                            .group_count = 1,
                            .codec = KVSTOW_RAW};
  return kvstow_space_open(client, &spec, status);
}

static void impossible_specs(kvstow_client* client) {
  kvstow_status status;
  kvstow_group group = {.size = sizeof(group), .kind = 9};
  kvstow_spec spec = {.size = sizeof(spec), .groups = &group, .group_count = 1};
  expect(kvstow_space_open(client, &spec, &status) == NULL, "kind 9 is refused", &status);
  expect(status.code == KVSTOW_INVALID_ARGUMENT && strstr(status.message, "kind") != NULL,
         "the field is named", &status);
  group.kind = 0;
  expect(kvstow_space_open(client, &spec, &status) == NULL, "a group without layers is refused",
         &status);
  spec.groups = NULL;
  expect(kvstow_space_open(client, &spec, &status) == NULL, "groups of NULL are refused", &status);
  expect(kvstow_space_open(client, NULL, NULL) == NULL, "no spec at all is refused", &status);
}

static void there_and_back(kvstow_client* client, kvstow_space* space, struct pages* pages,
                           uint32_t first_token, int coded) {
  kvstow_status status;
  uint8_t keys[BLOCKS * 32];
  uint32_t tokens[BLOCKS * 128 + 5];
  for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); ++i)
    tokens[i] = first_token + (uint32_t)i;
  expect(kvstow_keys(space, tokens, BLOCKS * 128 + 5, NULL, NULL, keys, BLOCKS) == BLOCKS,
         "whole blocks have keys", &(kvstow_status){0});
  kvstow_put_result result = {.size = sizeof(result)};
  const size_t stored =
      kvstow_put(space, keys, BLOCKS, NULL, 0, fill, pages, 10000, &result, &status);
  expect(stored == BLOCKS && result.stored == BLOCKS, "all blocks are stored", &status);
  expect(result.path == KVSTOW_PATH_SHM, "the fastest path is taken", &status);
  /* Encoded planes of codec raw have a table before the values. */
  expect((result.sent_bytes > BLOCKS * 4 * 32768) == coded, "who codes is as asked for", &status);
  uint64_t lease = 0;
  expect(kvstow_lookup(space, keys, BLOCKS, 1000, 10000, &lease, &status) == BLOCKS && lease != 0,
         "they are found", &status);
  expect(kvstow_get(space, keys, BLOCKS, take, on_layer, pages, 10000, &status) == BLOCKS,
         "they come back", &status);
  expect(pages->takes == BLOCKS * 4 && pages->layers == 2, "plane by plane", &status);
  kvstow_release(client, lease);
  /* Another one each time: cancelling travels, and the daemon may hold the last one still. */
  uint8_t other[32] = {coded ? 10 : 9};
  expect(kvstow_put(space, other, 1, NULL, 0, give_up, pages, 10000, NULL, &status) == 0 &&
             status.code == KVSTOW_CANCELLED,
         "a Put can be given up", &status);
}

static void token_ids(kvstow_space* space, struct pages* pages) {
  kvstow_status status;
  uint8_t keys[32];
  uint32_t tokens[128] = {77};
  kvstow_keys(space, tokens, 128, NULL, NULL, keys, 1);
  kvstow_put_request request = {.size = sizeof(request),
                                .keys = keys,
                                .key_count = 1,
                                .fill = fill,
                                .context = pages,
                                .deadline_ms = 10000,
                                .token_ids = tokens,
                                .token_count = 127};
  expect(kvstow_put_blocks(space, &request, NULL, &status) == 0 &&
             status.code == KVSTOW_INVALID_ARGUMENT && strstr(status.message, "127") != NULL,
         "token ids are of whole blocks", &status);
  request.token_count = 128;
  expect(kvstow_put_blocks(space, &request, NULL, &status) == 1, "they may be sent along", &status);
}

/* The worker codes, and what comes back is the same. */
static void own_coder(kvstow_options options, struct pages* pages) {
  kvstow_status status;
  kvstow_coder* coder = kvstow_cpu_coder_create(1);
  options.coder = coder;
  kvstow_client* client = kvstow_client_create(&options);
  kvstow_coder_destroy(coder); /* the client keeps it */
  kvstow_space* space = open_space(client, &status);
  pages->takes = pages->layers = 0;
  there_and_back(client, space, pages, 5000, 1);
  kvstow_space_destroy(space);
  kvstow_client_destroy(client);
}

static void misses(kvstow_space* space) {
  kvstow_status status;
  uint8_t keys[32] = {1};
  uint64_t lease = 7;
  expect(kvstow_lookup(space, keys, 1, 1000, 100, &lease, &status) == 0 && lease == 0,
         "without a daemon nothing matches", &status);
  expect(status.code != KVSTOW_OK && status.message[0] != 0, "and the reason is told", &status);
}

int main(int argc, char** argv) {
  if (argc != 2) return 64;
  const int daemon = strcmp(argv[1], "none") != 0;
  const kvstow_options options = {.size = sizeof(options),
                                  .target = daemon ? argv[1] : "unix:/nowhere/d.sock",
                                  .client_name = "c",
                                  .connect_wait_ms = daemon ? 20000 : 10,
                                  .lookup_deadline_ms = 20000};
  kvstow_client* client = kvstow_client_create(&options);
  kvstow_status status;
  impossible_specs(client);
  kvstow_space* space = open_space(client, &status);
  expect(space != NULL, "a sound spec opens, daemon or not", &status);
  kvstow_plane planes[4];
  expect(kvstow_space_planes(space, planes, 4) == 4 && planes[3].kind == KVSTOW_PLANE_V &&
             planes[3].bytes == 2 * 128 * 64 * 2,
         "planes are described", &status);
  struct pages pages = {0};
  for (int b = 0; b < BLOCKS; ++b) {
    for (int p = 0; p < 4; ++p) {
      pages.bytes[b][p] = malloc(planes[p].bytes);
      for (size_t i = 0; i < planes[p].bytes; ++i) {
        pages.bytes[b][p][i] = (unsigned char)(i * 7 + (size_t)b * 31 + (size_t)p);
      }
    }
  }
  if (daemon) {
    there_and_back(client, space, &pages, 0, 0);
    token_ids(space, &pages);
    own_coder(options, &pages);
  } else {
    misses(space);
  }
  for (int b = 0; b < BLOCKS; ++b) {
    for (int p = 0; p < 4; ++p) free(pages.bytes[b][p]);
  }
  kvstow_client_destroy(client);
  kvstow_space_destroy(space); /* may outlive its client */
  return failures != 0;
}
