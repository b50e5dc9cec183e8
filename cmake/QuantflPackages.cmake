# Debian packages: `cpack --config build/programs/CPackConfig.cmake`. Three of them, each with what its program
# loads (dpkg-shlibdeps, so that they fit the Debian they were built on), units and a configuration.
#   quantfl-coordinator  quantfl-coordinator, the demo's checkpoint
#   quantfl-client       quantfl-client, quantfl-model: what links LibTorch
#   quantfl-tools        quantflctl
include_guard()

# Packing is no reason to build the tests.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

if(NOT DEFINED CPACK_PACKAGE_CONTACT)
  set(CPACK_PACKAGE_CONTACT "QuantFL maintainers <root@localhost>")
endif()

# What Debian wants to find of every package: whose it is, with the terms of what is compiled into the programs, and
# what changed.
function(quantfl_package_documents)
  set(folder "${CMAKE_BINARY_DIR}/debian")
  file(READ "${CMAKE_SOURCE_DIR}/deploy/debian/copyright" copyright)
  foreach(package libabsl-dev libcli11-dev libcpp-httplib-dev libfmt-dev libgrpc++-dev libhwy-dev libjs-chart.js
                  libprotobuf-dev libspdlog-dev libtomlplusplus-dev nlohmann-json3-dev)
    if(EXISTS "/usr/share/doc/${package}/copyright")
      file(READ "/usr/share/doc/${package}/copyright" terms)
      string(APPEND copyright "\n\n${package}\n\n${terms}")
    endif()
  endforeach()
  file(WRITE "${folder}/copyright" "${copyright}")
  string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
  file(WRITE "${folder}/changelog" "quantfl (${PROJECT_VERSION}) unstable; urgency=medium\n\n"
       "  * Version ${PROJECT_VERSION}.\n\n -- ${CPACK_PACKAGE_CONTACT}  ${date}\n")
  execute_process(COMMAND gzip -9nf "${folder}/changelog" COMMAND_ERROR_IS_FATAL ANY)
  foreach(component coordinator client tools)
    install(FILES "${folder}/copyright" "${folder}/changelog.gz" DESTINATION "/usr/share/doc/quantfl-${component}"
            COMPONENT ${component} EXCLUDE_FROM_ALL)
  endforeach()
endfunction()
quantfl_package_documents()

# What is for packages alone is no part of `cmake --install`, which may go anywhere.
function(quantfl_package component)
  cmake_parse_arguments(A "" "UNIT;UNITS;COMMENT" "CONFIG" ${ARGN})
  set(user quantfl-${component})
  set(units "${A_UNITS}")
  set(comment "${A_COMMENT}")
  set(folder "${CMAKE_BINARY_DIR}/debian/${component}")
  foreach(script postinst prerm postrm)
    configure_file("${CMAKE_SOURCE_DIR}/deploy/debian/${script}.in" "${folder}/${script}" @ONLY
                   FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  endforeach()
  set(conffiles "")
  while(A_CONFIG)
    list(POP_FRONT A_CONFIG source target)
    # dpkg compares paths letter by letter: "//" would make a file that it does not keep.
    string(REGEX REPLACE "/$" "" target "${target}")
    get_filename_component(name "${source}" NAME)
    install(FILES "${CMAKE_SOURCE_DIR}/deploy/systemd/${source}" DESTINATION "/etc/quantfl${target}"
            COMPONENT ${component} EXCLUDE_FROM_ALL)
    string(APPEND conffiles "/etc/quantfl${target}/${name}\n")
  endwhile()
  file(WRITE "${folder}/conffiles" "${conffiles}")
  install(FILES "${CMAKE_SOURCE_DIR}/deploy/systemd/${A_UNIT}" DESTINATION /usr/lib/systemd/system
          COMPONENT ${component} EXCLUDE_FROM_ALL)
  string(TOUPPER "${component}" upper)
  set(CPACK_DEBIAN_${upper}_PACKAGE_CONTROL_EXTRA
      "${folder}/postinst;${folder}/prerm;${folder}/postrm;${folder}/conffiles" PARENT_SCOPE)
endfunction()
quantfl_package(coordinator UNIT quantfl-coordinator@.service UNITS quantfl-coordinator@*.service
                COMMENT "QuantFL coordinator" CONFIG demo.toml /runs)
quantfl_package(client UNIT quantfl-client.service UNITS quantfl-client.service
                COMMENT "QuantFL client" CONFIG client.toml "/")

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME quantfl)
set(CPACK_PACKAGE_VERSION "${PROJECT_VERSION}")
set(CPACK_COMPONENTS_ALL coordinator client tools)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
# A line, then the rest; the project's own would be put before them.
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")
set(CPACK_COMPONENT_COORDINATOR_DESCRIPTION "coordinator of federated fine-tuning
Runs rounds over gRPC, averages quantised updates, keeps records and counts
bytes. Needs no LibTorch.")
set(CPACK_COMPONENT_CLIENT_DESCRIPTION "client daemon of federated fine-tuning
Trains on this device's data and sends quantised updates over gRPC; with
quantfl-model, which makes and evaluates checkpoints.")
set(CPACK_COMPONENT_TOOLS_DESCRIPTION "operator's tool of federated fine-tuning
quantflctl looks after a run, makes certificates and tokens, fetches data
sets, compares runs.")
set(CPACK_DEBIAN_COORDINATOR_PACKAGE_DEPENDS passwd)
set(CPACK_DEBIAN_COORDINATOR_PACKAGE_SUGGESTS quantfl-tools)
# Debian's default BLAS is the reference one, 14 times slower.
set(CPACK_DEBIAN_CLIENT_PACKAGE_DEPENDS "passwd, libopenblas0-pthread")
set(CPACK_DEBIAN_CLIENT_PACKAGE_SUGGESTS dataset-fashion-mnist)
include(CPack)
