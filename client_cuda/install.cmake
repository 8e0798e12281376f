# Installs the component `cuda` of the package kvstow: the target kvstow::client_cuda, in a set of its
# own that only a build with CUDA has.
include(GNUInstallDirs)

set_target_properties(kvstow_client_cuda PROPERTIES EXPORT_NAME client_cuda)
# The plugin is its device code, and lies where the daemon looks for it.
install(TARGETS kvstow_client_cuda kvstow_gpu EXPORT kvstowCudaTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client
        LIBRARY DESTINATION lib/kvstow COMPONENT client)
install(EXPORT kvstowCudaTargets NAMESPACE kvstow::
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/kvstow COMPONENT client)
install(FILES kvstow/cuda.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/kvstow COMPONENT client)
