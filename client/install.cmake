# Installs the worker library as the CMake package kvstow with the target kvstow::client.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kvstow)

target_include_directories(kvstow_client INTERFACE
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/kvstow>)
set_target_properties(kvstow_client PROPERTIES EXPORT_NAME client)

install(TARGETS kvstow_client kvstow_space kvstow_staging kvstow_proto kvstow_options EXPORT kvstowTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client)
install(EXPORT kvstowTargets NAMESPACE kvstow:: DESTINATION ${package_dir} COMPONENT client)
install(FILES kvstow/client.h kvstow/coding.h kvstow/device_kv.h kvstow/kvstow.h kvstow/pages.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/kvstow COMPONENT client)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/space
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/kvstow COMPONENT client
        FILES_MATCHING PATTERN "*.h")
# The component `coding`: the CPU codec for workers, in a set of its own so that who leaves it out
# needs no ISA-L.
set_target_properties(kvstow_coding PROPERTIES EXPORT_NAME coding)
install(TARGETS kvstow_coding kvstow_codec EXPORT kvstowCodingTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client)
install(EXPORT kvstowCodingTargets NAMESPACE kvstow:: DESTINATION ${package_dir} COMPONENT client)

configure_package_config_file(kvstowConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/kvstowConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/kvstowConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kvstowConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/kvstowConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT client)
