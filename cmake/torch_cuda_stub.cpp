// What libtmt_cuda takes from libtorch_cuda.so, for linking where torch has no CUDA. Nothing here is ever called.
extern "C" {
void aoti_torch_get_current_cuda_stream() {}
void torch_c10_cuda_check_msg() {}
void torch_c10_cuda_free_error_msg() {}
}
