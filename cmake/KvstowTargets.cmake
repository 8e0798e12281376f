include(GoogleTest)

# kvstow_library(NAME [SOURCES ...] [DEPS ...]): a static library of this tree.
function(kvstow_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE kvstow_options)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
endfunction()

# Built and run under each sanitizer, too: see kvstow_test(... SANITIZE).
add_custom_target(sanitized_tests)

# kvstow_test(NAME SOURCES ... [DEPS ...] [SANITIZE] [LABEL ...]): a GoogleTest program, one ctest case a
# test. SANITIZE marks those that `./run sanitize` runs. Tests find the repository's data through the
# KVSTOW_SOURCE_DIR definition.
function(kvstow_test name)
  cmake_parse_arguments(ARG "SANITIZE" "LABEL" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(ARG_SANITIZE)
    set(ARG_LABEL sanitize)
    add_dependencies(sanitized_tests ${name})
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 DISCOVERY_MODE PRE_TEST
                       PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT 300)
endfunction()

# kvstow_benchmark(NAME SOURCES ... [DEPS ...]): a Google Benchmark program, run by `./run bench`.
function(kvstow_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options benchmark::benchmark)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endfunction()
