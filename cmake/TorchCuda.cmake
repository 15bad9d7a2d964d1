# Sets TMT_TORCH_CUDA, what libtmt_cuda is linked to so that it names libtorch_cuda.so: torch's own, or, where torch has none, a
# stub of that name, which is never installed. What is built for one torch then runs on the other.
find_library(TMT_TORCH_CUDA torch_cuda PATHS ${TMT_TORCH_LIB} NO_DEFAULT_PATH)
if(NOT TMT_TORCH_CUDA)
  add_library(torch_cuda_stub SHARED ${CMAKE_SOURCE_DIR}/cmake/torch_cuda_stub.cpp)
  set_target_properties(torch_cuda_stub PROPERTIES OUTPUT_NAME torch_cuda CXX_VISIBILITY_PRESET default
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/torch_cuda_stub)
  set(TMT_TORCH_CUDA torch_cuda_stub)
endif()
message(STATUS "tmt_ext: libtorch_cuda.so is ${TMT_TORCH_CUDA}")
