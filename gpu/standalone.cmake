# Adds gpu/ to a build of the whole tree:
#   cmake -S . -B build/cuda -DCMAKE_PROJECT_kvstow_INCLUDE=gpu/standalone.cmake
#   cmake --build build/cuda --target cuda_codec_test codec_gpu_benchmark
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL add_subdirectory gpu)
