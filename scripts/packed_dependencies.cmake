# Builds the libraries that scripts/pack_dependencies.sh packed, as far as something links them.
if(NOT EXISTS ${TANDEM_DEPENDENCIES}/abseil/CMakeLists.txt)
  message(FATAL_ERROR "TANDEM_DEPENDENCIES: found no abseil/CMakeLists.txt in "
    "'${TANDEM_DEPENDENCIES}', expected what scripts/pack_dependencies.sh packed, unpacked")
endif()

# Abseil of 2022 relies on <cstdint>, which the headers of newer compilers no longer include.
add_compile_options("$<$<COMPILE_LANGUAGE:CXX,CUDA>:SHELL:-include cstdint>")

set(ABSL_PROPAGATE_CXX_STD ON)
set(ABSL_ENABLE_INSTALL OFF)
# New versions of CMake reject the minimum version that Abseil asks for.
set(CMAKE_POLICY_VERSION_MINIMUM 3.5)
add_subdirectory(${TANDEM_DEPENDENCIES}/abseil ${CMAKE_BINARY_DIR}/abseil EXCLUDE_FROM_ALL)

# tandem_packed_library(NAME INCLUDE folder SOURCES a.cc ...)
function(tandem_packed_library name)
  cmake_parse_arguments(ARG "" "" "INCLUDE;SOURCES" ${ARGN})
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${ARG_SOURCES})
  target_include_directories(${name} SYSTEM PUBLIC ${ARG_INCLUDE})
  target_compile_options(${name} PRIVATE -w)
endfunction()

add_library(nlohmann_json INTERFACE)
target_include_directories(nlohmann_json SYSTEM INTERFACE ${TANDEM_DEPENDENCIES}/include)
add_library(nlohmann_json::nlohmann_json ALIAS nlohmann_json)

file(GLOB HIGHWAY_SOURCES ${TANDEM_DEPENDENCIES}/highway/hwy/*.cc)
tandem_packed_library(tandem_highway SOURCES ${HIGHWAY_SOURCES}
  INCLUDE ${TANDEM_DEPENDENCIES}/highway)

# xxhash.h contains its implementation.
file(WRITE ${CMAKE_BINARY_DIR}/xxhash.c
  "#define XXH_STATIC_LINKING_ONLY\n#define XXH_IMPLEMENTATION\n#include \"xxhash.h\"\n")
tandem_packed_library(tandem_xxhash SOURCES ${CMAKE_BINARY_DIR}/xxhash.c
  INCLUDE ${TANDEM_DEPENDENCIES}/include)

file(GLOB PCRE2_SOURCES ${TANDEM_DEPENDENCIES}/pcre2/*.c)
list(FILTER PCRE2_SOURCES EXCLUDE REGEX "jit_(match|misc)|ucptables")  # included by others
tandem_packed_library(tandem_pcre2 SOURCES ${PCRE2_SOURCES} INCLUDE ${TANDEM_DEPENDENCIES}/pcre2)
target_compile_definitions(tandem_pcre2 PUBLIC PCRE2_STATIC
  PRIVATE HAVE_CONFIG_H PCRE2_CODE_UNIT_WIDTH=8 SUPPORT_UNICODE HAVE_MEMMOVE HAVE_STRERROR)

if(TANDEM_TESTS)
  set(GOOGLETEST ${TANDEM_DEPENDENCIES}/googletest)
  tandem_packed_library(gtest SOURCES ${GOOGLETEST}/googletest/src/gtest-all.cc
    INCLUDE ${GOOGLETEST}/googletest/include)
  tandem_packed_library(gtest_main SOURCES ${GOOGLETEST}/googletest/src/gtest_main.cc)
  tandem_packed_library(gmock SOURCES ${GOOGLETEST}/googlemock/src/gmock-all.cc
    INCLUDE ${GOOGLETEST}/googlemock/include)
  target_include_directories(gtest PRIVATE ${GOOGLETEST}/googletest)
  target_include_directories(gmock PRIVATE ${GOOGLETEST}/googlemock)
  target_link_libraries(gtest PUBLIC Threads::Threads)
  target_link_libraries(gtest_main PUBLIC gtest)
  target_link_libraries(gmock PUBLIC gtest)
  foreach(name gtest gtest_main gmock)
    add_library(GTest::${name} ALIAS ${name})
  endforeach()
endif()
