// Argument checks of pack_mask, pack_predicted_mask and packed_attention, stated once for the CPU and CUDA host
// functions.
#pragma once

#include <algorithm>
#include <array>

#include "attention/decisions.h"
#include "common/tensor.h"

namespace tmt::attention {

struct AttentionShape {
  int64_t batch, heads, queries, keys, dim;
};

struct MaskShape {
  int64_t batch, queries, keys;
};

template <typename T>
Heads<const T> heads_to_read(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}
template <typename T>
Heads<T> heads_to_write(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

// An uninitialised tensor of the shape, dtype and device of `tensor` (B, heads, rows, D), without gaps: its rows are
// contiguous, its other dimensions lie in memory in the order that they have in `tensor`. tmt_ext/_register.py says the
// same to torch's compiler.
inline Tensor empty_in_order_of(const Tensor& tensor) {
  std::array<int64_t, 4> sizes, strides;
  for (int d = 0; d < 4; ++d) sizes[d] = tensor.size(d), strides[d] = tensor.stride(d);
  std::array<int, 3> order = {0, 1, 2};  // outermost first
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return strides[a] > strides[b]; });
  int64_t step = std::max<int64_t>(sizes[3], 1);
  strides[3] = 1;
  for (int i = 2; i >= 0; --i) strides[order[i]] = step, step *= std::max<int64_t>(sizes[order[i]], 1);
  return empty_strided(tensor, sizes, strides, tensor.scalar_type());
}

inline void check_like_query(const char* name, const Tensor& tensor, const Tensor& query) {
  TMT_CHECK(tensor.scalar_type() == query.scalar_type(), "packed_attention: ", name, " must have the dtype of query (",
            dtype_name(query), "), got ", dtype_name(tensor));
  TMT_CHECK(same_device(tensor, query), "packed_attention: ", name,
            " must be on the device of query, got another device; move it there");
}

inline void check_key_shape(const char* name, const Tensor& tensor, const Tensor& query) {
  TMT_CHECK(tensor.dim() == 4 && tensor.size(0) == query.size(0) && tensor.size(1) == query.size(1) &&
                tensor.size(3) == query.size(3),
            "packed_attention: ", name, " must be (B, heads, S, D) with B, heads and D of query ", shape(query),
            ", got ", shape(tensor));
  check_like_query(name, tensor, query);
}

inline void check_bits(const Tensor& bits, const AttentionShape& s, const Tensor& query) {
  TMT_CHECK(
      bits.dim() == 3 && bits.size(0) == s.batch && bits.size(1) == s.queries && bits.size(2) == mask_words(s.keys),
      "packed_attention: bits must be (B, N, ceil(S / 64)) = (", s.batch, ", ", s.queries, ", ", mask_words(s.keys),
      "), got ", shape(bits));
  TMT_CHECK(bits.scalar_type() == ScalarType::Long,
            "packed_attention: bits must be int64, as pack_mask makes them, got ", dtype_name(bits));
  TMT_CHECK(same_device(bits, query), "packed_attention: bits must be on the device of query, got another device");
}

// query (B, heads, N, D), key and value (B, heads, S, D), bits (B, N, ceil(S / 64)) int64 or absent.
inline AttentionShape check_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                      const std::optional<Tensor>& bits) {
  TMT_CHECK(query.dim() == 4, "packed_attention: query must be (B, heads, N, D), got ", shape(query));
  TMT_CHECK(is_floating(query), "packed_attention: query must be float32, bfloat16, float16 or float64, got ",
            dtype_name(query));
  TMT_CHECK(query.size(3) >= 1 && query.size(3) <= kMaxHeadDim, "packed_attention: query must have D in 1..",
            kMaxHeadDim, ", got ", query.size(3));
  check_key_shape("key", key, query);
  check_key_shape("value", value, query);
  TMT_CHECK(key.size(2) == value.size(2), "packed_attention: value must have the S of key (", key.size(2), "), got ",
            value.size(2));
  const AttentionShape s{query.size(0), query.size(1), query.size(2), key.size(2), query.size(3)};
  if (bits) check_bits(*bits, s, query);
  return s;
}

// As check_attention, with grad_output and output (B, heads, N, D), lse (B, heads, N) and plan (B, any).
inline AttentionShape check_attention_backward(const Tensor& grad_output, const Tensor& query, const Tensor& key,
                                               const Tensor& value, const Tensor& output, const Tensor& lse,
                                               const Tensor& plan, const std::optional<Tensor>& bits) {
  const AttentionShape s = check_attention(query, key, value, bits);
  const auto like_query = [&](const char* name, const Tensor& tensor) {
    TMT_CHECK(tensor.dim() == 4 && tensor.size(0) == s.batch && tensor.size(1) == s.heads &&
                  tensor.size(2) == s.queries && tensor.size(3) == s.dim,
              "packed_attention: ", name, " must have the shape of query ", shape(query), ", got ", shape(tensor));
    check_like_query(name, tensor, query);
  };
  like_query("grad_output", grad_output);
  like_query("output", output);
  TMT_CHECK(lse.dim() == 3 && lse.size(0) == s.batch && lse.size(1) == s.heads && lse.size(2) == s.queries,
            "packed_attention: lse must be (B, heads, N), got ", shape(lse));
  TMT_CHECK(lse.scalar_type() == accumulate_dtype(query),
            "packed_attention: lse must be the lse of packed_attention, got ", dtype_name(lse));
  TMT_CHECK(same_device(lse, query), "packed_attention: lse must be on the device of query, got another device");
  TMT_CHECK(
      plan.dim() == 2 && plan.size(0) == s.batch && plan.scalar_type() == ScalarType::Long && same_device(plan, query),
      "packed_attention: plan must be the plan of packed_attention, got ", dtype_name(plan), " ", shape(plan));
  return s;
}

// transferability (B, S) and transfer_threshold (B,) float32, both or neither; `op` is who asks, for the messages.
inline void check_transfer(const char* op, const std::optional<Tensor>& transferability,
                           const std::optional<Tensor>& threshold, const MaskShape& s) {
  TMT_CHECK(transferability || !threshold, op,
            ": transferability must be given with transfer_threshold, got None; give both or neither");
  if (!transferability) return;
  TMT_CHECK(transferability->dim() == 2 && transferability->size(0) == s.batch && transferability->size(1) == s.keys,
            op, ": transferability must be (B, S) = (", s.batch, ", ", s.keys, "), got ", shape(*transferability));
  TMT_CHECK(is_floating(*transferability), op, ": transferability must be floating-point, got ",
            dtype_name(*transferability));
  TMT_CHECK(threshold.has_value(), op, ": transfer_threshold must be given with transferability, got None");
  TMT_CHECK(threshold->dim() == 1 && threshold->size(0) == s.batch, op, ": transfer_threshold must be (B,) = (",
            s.batch, ",), got ", shape(*threshold));
  TMT_CHECK(threshold->scalar_type() == ScalarType::Float, op, ": transfer_threshold must be float32, got ",
            dtype_name(*threshold));
  TMT_CHECK(same_device(*threshold, *transferability), op,
            ": transfer_threshold must be on the device of transferability, got another device");
}

inline void check_mask_options(const char* op, double mask_logit_threshold, int64_t rule, int64_t fallback) {
  TMT_CHECK(mask_logit_threshold == mask_logit_threshold, op, ": mask_logit_threshold must be a number, got NaN");
  TMT_CHECK(rule >= kRuleNone && rule <= kRuleForeground, op,
            ": rule must be 0 (none), 1 (uncertain) or 2 (foreground), got ", rule);
  TMT_CHECK(fallback == kFallbackAll || fallback == kFallbackTransfer, op,
            ": fallback must be 0 (all) or 1 (transfer), got ", fallback);
}

// mask_logits (B, N, S) or absent, transferability (B, S) or absent, not both; transfer_threshold (B,) float32. N is
// `queries` where mask_logits is absent.
inline MaskShape check_pack_mask(const std::optional<Tensor>& mask_logits, const std::optional<Tensor>& transferability,
                                 const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                 int64_t rule, int64_t fallback, int64_t queries) {
  TMT_CHECK(mask_logits || transferability, "pack_mask: mask_logits or transferability must be given, got neither");
  check_mask_options("pack_mask", mask_logit_threshold, rule, fallback);
  MaskShape s{0, queries, 0};
  if (mask_logits) {
    TMT_CHECK(mask_logits->dim() == 3, "pack_mask: mask_logits must be (B, N, S), got ", shape(*mask_logits));
    TMT_CHECK(is_floating(*mask_logits), "pack_mask: mask_logits must be floating-point, got ",
              dtype_name(*mask_logits));
    TMT_CHECK(mask_logits->size(1) == queries, "pack_mask: queries must be the N of mask_logits (",
              mask_logits->size(1), "), got ", queries);
    s = {mask_logits->size(0), queries, mask_logits->size(2)};
  } else {
    TMT_CHECK(queries >= 0, "pack_mask: queries must be at least 0, got ", queries);
    TMT_CHECK(transferability->dim() == 2, "pack_mask: transferability must be (B, S), got ", shape(*transferability));
    s = {transferability->size(0), queries, transferability->size(1)};
  }
  check_transfer("pack_mask", transferability, transfer_threshold, s);
  TMT_CHECK(!mask_logits || !transferability || same_device(*mask_logits, *transferability),
            "pack_mask: transferability must be on the device of mask_logits, got another device");
  return s;
}

// mask_embeddings (B, N, E), mask_features (B, E, S); the rest as check_pack_mask, but for rule none.
inline MaskShape check_pack_predicted_mask(const Tensor& mask_embeddings, const Tensor& mask_features,
                                           const std::optional<Tensor>& transferability,
                                           const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                           int64_t rule, int64_t fallback) {
  constexpr auto op = "pack_predicted_mask";
  TMT_CHECK(mask_embeddings.dim() == 3 && mask_embeddings.size(2) >= 1, op,
            ": mask_embeddings must be (B, N, E) with E at least 1, got ", shape(mask_embeddings));
  TMT_CHECK(is_floating(mask_embeddings), op, ": mask_embeddings must be floating-point, got ",
            dtype_name(mask_embeddings));
  TMT_CHECK(mask_features.dim() == 3 && mask_features.size(0) == mask_embeddings.size(0) &&
                mask_features.size(1) == mask_embeddings.size(2),
            op, ": mask_features must be (B, E, S) with B and E of mask_embeddings ", shape(mask_embeddings), ", got ",
            shape(mask_features));
  TMT_CHECK(mask_features.scalar_type() == mask_embeddings.scalar_type(), op,
            ": mask_features must have the dtype of mask_embeddings (", dtype_name(mask_embeddings), "), got ",
            dtype_name(mask_features), "; cast one of them");
  TMT_CHECK(same_device(mask_features, mask_embeddings), op,
            ": mask_features must be on the device of mask_embeddings, got another device");
  check_mask_options(op, mask_logit_threshold, rule, fallback);
  TMT_CHECK(rule != kRuleNone, op, ": rule must be 1 (uncertain) or 2 (foreground), got 0; pack_mask serves rule none");
  const MaskShape s{mask_embeddings.size(0), mask_embeddings.size(1), mask_features.size(2)};
  check_transfer(op, transferability, transfer_threshold, s);
  TMT_CHECK(!transferability || same_device(*transferability, mask_embeddings), op,
            ": transferability must be on the device of mask_embeddings, got another device");
  return s;
}

}  // namespace tmt::attention
