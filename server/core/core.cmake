# The transport-free service on top of the store.
kvstow_library(kvstow_core
  SOURCES byte_budget.cc get_call.cc put_call.cc service.cc sessions.cc space_context.cc watch_hub.cc
  DEPS kvstow_store kvstow_codec kvstow_space absl::synchronization absl::time
       absl::flat_hash_map absl::any_invocable)
