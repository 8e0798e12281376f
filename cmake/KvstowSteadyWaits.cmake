# kvstow_steady_waits: for programs; see steady_waits.cc. An object, so that the linker takes it though
# nothing of ours names it.
add_library(kvstow_steady_waits_object OBJECT ${CMAKE_CURRENT_LIST_DIR}/steady_waits.cc)
target_link_libraries(kvstow_steady_waits_object PRIVATE kvstow_options absl::synchronization)
add_library(kvstow_steady_waits INTERFACE)
target_sources(kvstow_steady_waits INTERFACE $<TARGET_OBJECTS:kvstow_steady_waits_object>)
