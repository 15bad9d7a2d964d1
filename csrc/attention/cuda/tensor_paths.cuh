// The attention of half-precision tensors whose rows are whole chunks of 16 bytes, on tensor cores; the operators'
// host functions choose between these and the float32 kernels.
#pragma once

#include "attention/checks.h"

namespace tmt::attention::cuda {

// Whether they take the call. A row must be whole chunks of 16 bytes; wider heads than 128 do not fit the registers.
inline bool fits_tensor_cores(const Tensor& query) {
  const auto dtype = query.scalar_type();
  return (dtype == ScalarType::BFloat16 || dtype == ScalarType::Half) && query.size(3) % 8 == 0 && query.size(3) <= 128;
}

// query (B, heads, N, D), key, value (B, heads, S, D), bits (B, N, ceil(S / 64)), contiguous; writes result (B, heads,
// N, D) and lse (B, heads, N). Returns the plan, (B, 0) where there are no bits.
Tensor attend_with_tensor_cores(const AttentionShape& shape, const Tensor& query, const Tensor& key,
                                const Tensor& value, const std::optional<Tensor>& bits, const Tensor& result,
                                const Tensor& lse);

// As given to and returned by the operator; lse is contiguous.
struct AttentionGiven {
  Tensor grad_output, query, key, value, output, lse;
};
struct AttentionGradients {
  Tensor query, key, value;
};
// `plan` as attend_with_tensor_cores returned it for the same bits.
void differentiate_with_tensor_cores(const AttentionShape& shape, const AttentionGiven& given, const Tensor& plan,
                                     const AttentionGradients& result);

}  // namespace tmt::attention::cuda
