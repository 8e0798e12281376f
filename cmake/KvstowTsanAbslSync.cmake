# kvstow_tsan_absl_sync: makes the locks of an uninstrumented Abseil known to ThreadSanitizer. Link it
# into whatever uses absl::Mutex; it is empty in other builds.
if(NOT KVSTOW_SANITIZE MATCHES "thread")
  add_library(kvstow_tsan_absl_sync INTERFACE)
  return()
endif()

file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/tsan_absl_sync.cc declarations REGEX "^DECLARE\\(")
# An object library: an archive's members would come too late for the symbols that --wrap makes.
add_library(kvstow_tsan_absl_sync_object OBJECT ${CMAKE_CURRENT_LIST_DIR}/tsan_absl_sync.cc)
target_link_libraries(kvstow_tsan_absl_sync_object PRIVATE kvstow_options absl::synchronization)
add_library(kvstow_tsan_absl_sync INTERFACE)
target_sources(kvstow_tsan_absl_sync INTERFACE $<TARGET_OBJECTS:kvstow_tsan_absl_sync_object>)
foreach(declaration IN LISTS declarations)
  string(REGEX MATCH "_ZN[A-Za-z0-9_]+" symbol "${declaration}")
  target_link_options(kvstow_tsan_absl_sync INTERFACE "LINKER:--wrap=${symbol}")
endforeach()
