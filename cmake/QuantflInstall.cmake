# Programs are installed by quantfl_program(); here the libraries that stand alone: base, codec, model,
# federation, for find_package(quantfl) without gRPC, LibTorch or Protobuf.
include_guard()
include(CMakePackageConfigHelpers)

set(_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/quantfl")
install(TARGETS quantfl_base quantfl_codec quantfl_model quantfl_federation EXPORT quantfl
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev)
foreach(_folder base codec model federation)
  install(DIRECTORY common/${_folder}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/quantfl/common/${_folder}
          COMPONENT dev FILES_MATCHING PATTERN "*.h")
endforeach()
install(EXPORT quantfl NAMESPACE quantfl:: DESTINATION ${_cmake_dir} COMPONENT dev)
configure_package_config_file(cmake/quantflConfig.cmake.in "${CMAKE_BINARY_DIR}/quantflConfig.cmake"
                              INSTALL_DESTINATION ${_cmake_dir})
write_basic_package_version_file("${CMAKE_BINARY_DIR}/quantflConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/quantflConfig.cmake" "${CMAKE_BINARY_DIR}/quantflConfigVersion.cmake"
        DESTINATION ${_cmake_dir} COMPONENT dev)
install(DIRECTORY proto/quantfl DESTINATION ${CMAKE_INSTALL_DATADIR}/quantfl/proto COMPONENT dev
        FILES_MATCHING PATTERN "*.proto")
install(DIRECTORY deploy/pretrained DESTINATION ${CMAKE_INSTALL_DATADIR}/quantfl COMPONENT coordinator
        FILES_MATCHING PATTERN "*.safetensors" PATTERN "README.md")
