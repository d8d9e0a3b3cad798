# The libraries of the core. They are the installed ones, or, if TANDEM_DEPENDENCIES names a folder,
# the sources there (scripts/pack_dependencies.sh makes it, for machines without a package server).
# Defines absl::*, nlohmann_json::nlohmann_json, GTest::* (with TANDEM_TESTS), tandem_highway,
# tandem_xxhash, tandem_pcre2 and tandem_utf8proc (which TANDEM_CORE_ONLY can do without).
set(TANDEM_DEPENDENCIES "" CACHE PATH "Folder of packed sources in place of installed libraries")

find_package(Threads REQUIRED)

if(TANDEM_DEPENDENCIES)
  include(${CMAKE_CURRENT_LIST_DIR}/packed_dependencies.cmake)
  return()
endif()

# tandem_pkg_config(TARGET MODULE REQUIRED|QUIET)
find_package(PkgConfig REQUIRED)
function(tandem_pkg_config target module need)
  pkg_check_modules(${target} ${need} IMPORTED_TARGET GLOBAL ${module})
  if(${target}_FOUND)
    add_library(${target} INTERFACE)
    target_link_libraries(${target} INTERFACE PkgConfig::${target})
  endif()
endfunction()

find_package(absl REQUIRED)
find_package(nlohmann_json REQUIRED)
tandem_pkg_config(tandem_highway libhwy REQUIRED)
tandem_pkg_config(tandem_xxhash libxxhash REQUIRED)
tandem_pkg_config(tandem_pcre2 libpcre2-8 REQUIRED)
if(TANDEM_CORE_ONLY)
  tandem_pkg_config(tandem_utf8proc libutf8proc QUIET)
else()
  tandem_pkg_config(tandem_utf8proc libutf8proc REQUIRED)
endif()
if(TANDEM_TESTS)
  find_package(GTest REQUIRED)
endif()
