# Compiler, warnings, sanitizers, ccache.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

set(KVSTOW_SANITIZE "" CACHE STRING "Sanitizers for the whole build, as -fsanitize= takes them")
option(KVSTOW_THREAD_SAFETY "Check lock annotations (clang only)" OFF)

# For the sanitizer presets: quick to compile, with the lines of a report and no more.
set(CMAKE_CXX_FLAGS_SANITIZE "-O1 -g1" CACHE STRING "" FORCE)
set(CMAKE_C_FLAGS_SANITIZE "-O1 -g1" CACHE STRING "" FORCE)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(KVSTOW_CCACHE ccache)
if(KVSTOW_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${KVSTOW_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${KVSTOW_CCACHE})
endif()

add_library(kvstow_options INTERFACE)
target_include_directories(kvstow_options INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
target_compile_options(kvstow_options INTERFACE -Wall -Wextra -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC 12 sees overlaps in std::string where there are none (GCC bug 105651).
  target_compile_options(kvstow_options INTERFACE -Wno-restrict)
endif()
if(KVSTOW_SANITIZE)
  target_compile_options(kvstow_options INTERFACE -fsanitize=${KVSTOW_SANITIZE}
                                                  -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(kvstow_options INTERFACE -fsanitize=${KVSTOW_SANITIZE})
endif()
if(KVSTOW_THREAD_SAFETY)
  target_compile_options(kvstow_options INTERFACE -Wthread-safety -Werror=thread-safety)
endif()
