# The transport-free service on top of the store.
kvstow_library(kvstow_core
  SOURCES batched_plane_codec.cc byte_budget.cc get_call.cc put_call.cc service.cc sessions.cc
          space_context.cc tiled_plane_codec.cc watch_hub.cc
  DEPS kvstow_store kvstow_codec kvstow_space kvstow_staging absl::synchronization absl::time
       absl::flat_hash_map absl::any_invocable)
kvstow_test(plane_codec_test SOURCES plane_codec_test.cc DEPS kvstow_core SANITIZE)
