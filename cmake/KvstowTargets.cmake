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

# kvstow_test(NAME SOURCES ... [DEPS ...] [SANITIZE | SANITIZE_ADDRESS]): a GoogleTest program, one ctest
# case a test. SANITIZE marks those that `./run sanitize` runs, SANITIZE_ADDRESS those that it runs under
# ASan and UBSan only: what gRPC orders between threads TSan cannot see, because Debian's gRPC is not
# instrumented, so server/core has stress tests of its own without it. Tests find the repository's data through the
# KVSTOW_SOURCE_DIR definition.
function(kvstow_test name)
  cmake_parse_arguments(ARG "SANITIZE;SANITIZE_ADDRESS" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options kvstow_tsan_absl_sync GTest::gmock
                                        GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set(properties TIMEOUT 300)
  if(ARG_SANITIZE OR (ARG_SANITIZE_ADDRESS AND NOT KVSTOW_SANITIZE MATCHES "thread"))
    list(APPEND properties LABELS sanitize)
    add_dependencies(sanitized_tests ${name})
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 DISCOVERY_MODE PRE_TEST
                       PROPERTIES ${properties})
endfunction()

option(KVSTOW_FUZZ "Build fuzz targets as libFuzzer programs (clang)" OFF)
add_custom_target(fuzz_targets)

# kvstow_fuzz(NAME SOURCES ... [DEPS ...] CORPUS FOLDER...): a fuzz target. As a test it replays its corpus
# and seeded mutations of it, under the sanitizers too; with KVSTOW_FUZZ it is a libFuzzer program.
function(kvstow_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;CORPUS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options kvstow_tsan_absl_sync)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(KVSTOW_FUZZ)
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzz_targets ${name})
    return()
  endif()
  target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/testing/replay_main.cc)
  list(TRANSFORM ARG_CORPUS PREPEND ${CMAKE_SOURCE_DIR}/)
  add_test(NAME ${name} COMMAND ${name} ${ARG_CORPUS})
  set_tests_properties(${name} PROPERTIES LABELS sanitize TIMEOUT 300)
  add_dependencies(sanitized_tests ${name})
endfunction()

# kvstow_benchmark(NAME SOURCES ... [DEPS ...]): a Google Benchmark program, run by `./run bench`.
function(kvstow_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options benchmark::benchmark)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endfunction()
