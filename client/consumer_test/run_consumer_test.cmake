# Installs the tree into a prefix of its own and builds a project against it. Variables: BUILD_DIR, of
# the tree; WORK_DIR, emptied first; SOURCE_DIR, the client folder; COMPILER; WITH_CUDA.
function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/prefix --component client)
run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/consumer_test/project -B ${WORK_DIR}/build
    -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix -DCMAKE_CXX_COMPILER=${COMPILER}
    -DWORKER_SOURCE=${SOURCE_DIR}/example/worker.cc -DWITH_CUDA=${WITH_CUDA})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
# Without a daemon the worker recomputes everything and is none the worse for it.
run(${WORK_DIR}/build/worker unix:${WORK_DIR}/no-daemon.sock)
run(${WORK_DIR}/build/coding_worker unix:${WORK_DIR}/no-daemon.sock)
if(WITH_CUDA)
  run(${WORK_DIR}/build/cuda_worker unix:${WORK_DIR}/no-daemon.sock)
endif()
