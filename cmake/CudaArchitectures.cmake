# Sets TMT_ARCHITECTURES (CMake form, e.g. 80-real;90-real;120) from TMT_CUDA_ARCHITECTURES (torch's form, e.g. "8.0 9.0+PTX"),
# else from the visible GPU, else from the default list.
string(REPLACE " " ";" requested "${TMT_CUDA_ARCHITECTURES}")
if(NOT requested)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE requested OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(requested "")
  endif()
  string(REPLACE "\n" ";" requested "${requested}")
endif()

if(NOT requested)
  set(TMT_ARCHITECTURES 80-real 86-real 89-real 90 120)  # PTX of 9.0 serves 10.0 and 10.3, for which 12.0's is too new
else()
  foreach(entry IN LISTS requested)
    if(NOT entry MATCHES "^[ ]*([0-9]+)\\.([0-9]+[af]?)(\\+PTX)?[ ]*$")
      message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST: entry must look like 9.0 or 9.0+PTX, got '${entry}'")
    endif()
    set(architecture ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    if(CMAKE_MATCH_3)
      list(APPEND TMT_ARCHITECTURES ${architecture})
    else()
      list(APPEND TMT_ARCHITECTURES ${architecture}-real)
    endif()
  endforeach()
endif()
list(REMOVE_DUPLICATES TMT_ARCHITECTURES)
