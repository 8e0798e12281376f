# cmake -DSCRIPT=WritePluginVersion.cmake -P plugin_version_test.cmake: what the version follows.
set(folder "${CMAKE_CURRENT_BINARY_DIR}/plugin_version_test.files")
file(REMOVE_RECURSE "${folder}")

function(version_of out built_by)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -DVERSION=1.2.3 -DBUILT_BY=${built_by}
            "-DHEADERS=${folder}/a.h;${folder}/b.h" -DOUTPUT=${folder}/version.h -P ${SCRIPT}
    COMMAND_ERROR_IS_FATAL ANY)
  file(STRINGS "${folder}/version.h" line REGEX KVSTOW_PLUGIN_VERSION)
  string(REGEX MATCH "\"1\\.2\\.3\\+[0-9a-f]+\"" version "${line}")
  if(NOT version)
    message(FATAL_ERROR "no version in: ${line}")
  endif()
  set(${out} "${version}" PARENT_SCOPE)
endfunction()

function(expect_other what version)
  if(version STREQUAL first)
    message(FATAL_ERROR "${what}, and the version is still ${version}")
  endif()
endfunction()

file(WRITE "${folder}/a.h" "struct A { int x; };\n")
file(WRITE "${folder}/b.h" "struct B { int x; };\n")
version_of(first g++-12)

version_of(version g++-12)
if(NOT version STREQUAL first)
  message(FATAL_ERROR "the same headers made ${first} and ${version}")
endif()

version_of(version g++-13)
expect_other("another compiler" "${version}")

file(WRITE "${folder}/b.h" "struct B { int x, y; };\n")
version_of(version g++-12)
expect_other("the last header changed" "${version}")
file(WRITE "${folder}/b.h" "struct B { int x; };\n")

file(WRITE "${folder}/a.h" "struct A { int x, y; };\n")
version_of(version g++-12)
expect_other("the first header changed" "${version}")

file(REMOVE_RECURSE "${folder}")
