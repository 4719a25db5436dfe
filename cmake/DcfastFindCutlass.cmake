# dcfast_find_cutlass(out): the directory of CUTLASS 3's headers by DCFAST_CUTLASS, or "" and a line that says what is missing.
function(dcfast_find_cutlass out)
  set(${out} "" PARENT_SCOPE)
  if(DCFAST_CUTLASS STREQUAL "OFF")
    return()
  endif()
  set(folder "${DCFAST_CUTLASS}")
  if(folder STREQUAL "AUTO")
    # looked for, not imported: the package wants others that a build does not need
    execute_process(COMMAND "${Python_EXECUTABLE}" -c
      "import importlib.util as u; s = u.find_spec('cutlass_library'); print(s.submodule_search_locations[0] + '/source/include' if s else '')"
      OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(NOT folder)
      message(STATUS "dcfast: no CUTLASS, so no fused similarity kernels: pip install --no-deps nvidia-cutlass==4.2.0.0, or -DDCFAST_CUTLASS=DIR")
      return()
    endif()
  endif()
  if(NOT EXISTS "${folder}/cute/tensor.hpp")
    message(FATAL_ERROR "DCFAST_CUTLASS: no cute/tensor.hpp in ${folder}: give the include directory of CUTLASS 3.5 or newer, or OFF")
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()
