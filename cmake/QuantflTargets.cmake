# quantfl_library(NAME [SOURCES ...] [DEPS ...] [PRIVATE_DEPS ...])
#   One target a folder, alias quantfl::NAME. Sources are named relative to the folder.
#   A library's place in the architecture is what it links: tests/install/link_lines_test checks it.
# quantfl_program(NAME SOURCES ... DEPS ... COMPONENT ...)
#   An installed executable, build/.../bin/NAME; COMPONENT is the Debian package that it is in.
# quantfl_test(NAME SOURCES ... DEPS ... [LABELS ...] [ONE_ENTRY])
#   A GoogleTest binary. ONE_ENTRY registers the binary as a single ctest entry: LibTorch costs half
#   a second at every start, which gtest_discover_tests would pay for each test.
include_guard()

set(QUANTFL_WARNINGS -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -Woverloaded-virtual
    -Wno-sign-conversion)

add_library(quantfl_build_flags INTERFACE)
# gcc contracts a*b+c into an fma by default on AVX2 and NEON, which changes bits: never here.
target_compile_options(quantfl_build_flags INTERFACE ${QUANTFL_WARNINGS} -ffp-contract=off
    $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>
    $<$<BOOL:${QUANTFL_WERROR}>:-Werror>)
if(QUANTFL_SANITIZE)
  string(REPLACE ";" "," _san "${QUANTFL_SANITIZE}")
  # GCC no longer sees through what it instruments, and takes a variant's other members for uninitialised.
  add_compile_options(-fsanitize=${_san} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1
                      $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  add_link_options(-fsanitize=${_san})
endif()

function(quantfl_library name)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(quantfl_${name} STATIC ${A_SOURCES})
  add_library(quantfl::${name} ALIAS quantfl_${name})
  set_target_properties(quantfl_${name} PROPERTIES EXPORT_NAME ${name})
  set_property(GLOBAL APPEND PROPERTY QUANTFL_TARGETS quantfl_${name})
  target_include_directories(quantfl_${name} PUBLIC
      $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<BUILD_INTERFACE:${CMAKE_BINARY_DIR}/generated>
      $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/quantfl>)
  target_link_libraries(quantfl_${name} PUBLIC ${A_DEPS}
                        PRIVATE $<BUILD_INTERFACE:quantfl_build_flags> ${A_PRIVATE_DEPS})
endfunction()

function(quantfl_program name)
  cmake_parse_arguments(A "" "COMPONENT" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE quantfl_build_flags ${A_DEPS})
  set_property(GLOBAL APPEND PROPERTY QUANTFL_TARGETS ${name})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${A_COMPONENT})
endfunction()

function(quantfl_test name)
  cmake_parse_arguments(A "ONE_ENTRY" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  if(NOT A_LABELS)
    set(A_LABELS unit)  # gtest_discover_tests would drop an empty value and shift the others
  endif()
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE quantfl_build_flags ${A_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  # What is tested is optimised; the tests themselves are compiled about as often as they run.
  if(QUANTFL_SANITIZE)
    target_compile_options(${name} PRIVATE -O0)
  elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_compile_options(${name} PRIVATE -O1)
  endif()
  if(A_ONE_ENTRY)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT})
  else()
    gtest_discover_tests(${name} TEST_PREFIX "${name}." DISCOVERY_TIMEOUT 60
                         PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT})
  endif()
endfunction()

# name_python_test.py holds an oracle in Python against name_peer.cc, which is linked with DEPS. It is called with
# BEFORE, the peer and AFTER, and ends with 77 where what it needs is not installed.
function(quantfl_python_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "DEPS;BEFORE;AFTER" ${ARGN})
  add_executable(${name}_peer ${name}_peer.cc)
  target_link_libraries(${name}_peer PRIVATE quantfl_build_flags ${A_DEPS})
  set_target_properties(${name}_peer PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  add_test(NAME ${name}_python_test
           COMMAND Python3::Interpreter "${CMAKE_CURRENT_SOURCE_DIR}/${name}_python_test.py" ${A_BEFORE}
                   $<TARGET_FILE:${name}_peer> ${A_AFTER})
  set_tests_properties(${name}_python_test PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${A_TIMEOUT} LABELS unit)
endfunction()

function(quantfl_folder folder)
  if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/CMakeLists.txt")
    add_subdirectory(${folder})
  endif()
endfunction()

# quantfl_leaves_upper_halves_clear(SOURCE...) for sources with functions of instruction sets above the build's.
# GCC 12 does not clear the upper halves of vectors before it calls a function that it knows not to use any, and
# then takes them for clear; what runs after it is slow. tests/unit/common/codec/upper_halves_test.cc looks.
function(quantfl_leaves_upper_halves_clear)
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "$<$<CXX_COMPILER_ID:GNU>:-fno-ipa-ra>")
endfunction()
