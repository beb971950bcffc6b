# cmake --install: include/pith, libpith and a CMake package (src/cli adds the program), so that
#   find_package(pith)  target_link_libraries(x PRIVATE pith::pith)
# is all that a program needs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(pith_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pith)
# The package looks first for the ggml that the library was compiled against.
set(pith_ggml_dir ${ggml_DIR})

install(TARGETS pith EXPORT pithTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/pith DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(EXPORT pithTargets NAMESPACE pith:: DESTINATION ${pith_package_dir})
configure_package_config_file(cmake/pithConfig.cmake.in ${PROJECT_BINARY_DIR}/pithConfig.cmake
  INSTALL_DESTINATION ${pith_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pithConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/pithConfig.cmake ${PROJECT_BINARY_DIR}/pithConfigVersion.cmake
  DESTINATION ${pith_package_dir})
