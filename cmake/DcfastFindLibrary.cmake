# dcfast_find_library(name HEADER h NAMES n... PACKAGE p): finds a C library that ships no CMake
# package in Debian and makes the target dcfast::name of it, or says which package holds it.
function(dcfast_find_library name)
  cmake_parse_arguments(ARG "" "HEADER;PACKAGE" "NAMES" ${ARGN})
  find_path(DCFAST_${name}_INCLUDE "${ARG_HEADER}")
  find_library(DCFAST_${name}_LIBRARY NAMES ${ARG_NAMES})
  if(NOT DCFAST_${name}_INCLUDE OR NOT DCFAST_${name}_LIBRARY)
    message(FATAL_ERROR "dcfast needs ${ARG_HEADER} and its library: on Debian or Ubuntu, apt-get install ${ARG_PACKAGE}")
  endif()
  add_library(dcfast::${name} UNKNOWN IMPORTED)
  set_target_properties(dcfast::${name} PROPERTIES
    IMPORTED_LOCATION "${DCFAST_${name}_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${DCFAST_${name}_INCLUDE}")
endfunction()
