# SPDX-License-Identifier: MIT
# The package: headers, find_package(mllama) and pkg-config. Nothing in it depends on the architecture.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/mllama)

write_basic_package_version_file(mllama-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
configure_file(cmake/mllama.pc.in mllama.pc @ONLY)

install(TARGETS mllama mllama_precompiled EXPORT mllama)
install(EXPORT mllama NAMESPACE mllama:: FILE mllama-targets.cmake DESTINATION ${package_dir})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES cmake/mllama-config.cmake cmake/mllama-dependencies.cmake cmake/mllama-kernels.cmake cmake/mllama-models.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/mllama-config-version.cmake DESTINATION ${package_dir})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mllama.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
