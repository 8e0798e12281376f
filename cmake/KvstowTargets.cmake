include(GoogleTest)

# kvstow_library(NAME [SOURCES ...] [DEPS ...]): a static library of this tree.
function(kvstow_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE kvstow_options)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
endfunction()

# kvstow_test(NAME SOURCES ... [DEPS ...] [LABELS ...]): a GoogleTest program, one ctest case a test.
# Tests that need the repository's data find it through the KVSTOW_SOURCE_DIR definition.
function(kvstow_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60
                       PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 300)
endfunction()

# kvstow_benchmark(NAME SOURCES ... [DEPS ...]): a Google Benchmark program, run by `./run bench`.
function(kvstow_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} kvstow_options benchmark::benchmark)
  target_compile_definitions(${name} PRIVATE KVSTOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endfunction()
