// Shared by every host function: one way to refuse an argument, and short names for the stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>

namespace tmt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws std::runtime_error with the message alone (no file or line: it is read by users, who see it as RuntimeError).
#define TMT_CHECK(condition, ...)                                       \
  do {                                                                  \
    if (!(condition)) throw std::runtime_error(tmt::text(__VA_ARGS__)); \
  } while (0)

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// "(2, 3, 8, 8)", for messages.
inline std::string shape(const Tensor& tensor) {
  std::ostringstream stream;
  stream << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) stream << (d ? ", " : "") << tensor.size(d);
  stream << ')';
  return stream.str();
}

inline const char* dtype_name(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    case ScalarType::Bool: return "bool";
    default: return "another dtype";
  }
}

inline bool is_floating(const Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

// The dtype sums are carried in: float64 for float64, float32 for everything else.
inline ScalarType accumulate_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Asks first: a call into torch costs more than small sizes take in the kernels.
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}
inline std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(dense(*tensor)) : std::nullopt;
}

// A tensor of four dimensions as kernels read it whose last one is contiguous: a copy only where that is not.
inline Tensor with_dense_rows(const Tensor& tensor) {
  return tensor.size(3) == 1 || tensor.stride(3) == 1 ? tensor : torch::stable::contiguous(tensor);
}

// Uninitialised, on the device of `like`. Straight from the allocator: torch::stable::new_empty goes through the
// dispatcher, which takes longer than some kernels.
template <size_t kDims>
Tensor empty_strided(const Tensor& like, const std::array<int64_t, kDims>& sizes,
                     const std::array<int64_t, kDims>& strides, ScalarType dtype) {
  AtenTensorHandle handle = nullptr;
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(kDims, sizes.data(), strides.data(), static_cast<int32_t>(dtype),
                                                  device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

// The same, contiguous.
template <typename... Sizes>
Tensor empty(const Tensor& like, ScalarType dtype, Sizes... given) {
  const std::array<int64_t, sizeof...(Sizes)> sizes{given...};
  auto strides = sizes;
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0;) strides[d] = step, step *= std::max<int64_t>(sizes[d], 1);
  return empty_strided(like, sizes, strides, dtype);
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

}  // namespace tmt
