// Argument checks of pack_mask and packed_attention, stated once for the CPU and CUDA host functions.
#pragma once

#include "common.h"
#include "masked_attention_math.h"

namespace tmt {

struct AttentionShape {
  int64_t batch, heads, queries, keys, dim;
};

struct MaskShape {
  int64_t batch, queries, keys;
};

inline void check_like_query(const char* name, const Tensor& tensor, const Tensor& query) {
  TMT_CHECK(tensor.scalar_type() == query.scalar_type(), "masked_attention: ", name, " must have the dtype of query (",
            dtype_name(query), "), got ", dtype_name(tensor));
  TMT_CHECK(same_device(tensor, query), "masked_attention: ", name,
            " must be on the device of query, got another device; move it there");
}

inline void check_key_shape(const char* name, const Tensor& tensor, const Tensor& query) {
  TMT_CHECK(tensor.dim() == 4 && tensor.size(0) == query.size(0) && tensor.size(1) == query.size(1) &&
                tensor.size(3) == query.size(3),
            "masked_attention: ", name, " must be (B, heads, S, D) with B, heads and D of query ", shape(query),
            ", got ", shape(tensor));
  check_like_query(name, tensor, query);
}

inline void check_bits(const Tensor& bits, const AttentionShape& s, const Tensor& query) {
  TMT_CHECK(
      bits.dim() == 3 && bits.size(0) == s.batch && bits.size(1) == s.queries && bits.size(2) == mask_words(s.keys),
      "masked_attention: bits must be (B, N, ceil(S / 64)) = (", s.batch, ", ", s.queries, ", ", mask_words(s.keys),
      "), got ", shape(bits));
  TMT_CHECK(bits.scalar_type() == ScalarType::Long,
            "masked_attention: bits must be int64, as pack_mask makes them, got ", dtype_name(bits));
  TMT_CHECK(same_device(bits, query), "masked_attention: bits must be on the device of query, got another device");
}

// query (B, heads, N, D), key and value (B, heads, S, D), bits (B, N, ceil(S / 64)) int64 or absent.
inline AttentionShape check_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                      const std::optional<Tensor>& bits) {
  TMT_CHECK(query.dim() == 4, "masked_attention: query must be (B, heads, N, D), got ", shape(query));
  TMT_CHECK(is_floating(query), "masked_attention: query must be float32, bfloat16, float16 or float64, got ",
            dtype_name(query));
  TMT_CHECK(query.size(3) >= 1 && query.size(3) <= kMaxHeadDim, "masked_attention: query must have D in 1..",
            kMaxHeadDim, ", got ", query.size(3));
  check_key_shape("key", key, query);
  check_key_shape("value", value, query);
  TMT_CHECK(key.size(2) == value.size(2), "masked_attention: value must have the S of key (", key.size(2), "), got ",
            value.size(2));
  const AttentionShape s{query.size(0), query.size(1), query.size(2), key.size(2), query.size(3)};
  if (bits) check_bits(*bits, s, query);
  return s;
}

// As check_attention, with grad_output and output (B, heads, N, D) and lse (B, heads, N).
inline AttentionShape check_attention_backward(const Tensor& grad_output, const Tensor& query, const Tensor& key,
                                               const Tensor& value, const Tensor& output, const Tensor& lse,
                                               const std::optional<Tensor>& bits) {
  const AttentionShape s = check_attention(query, key, value, bits);
  const auto like_query = [&](const char* name, const Tensor& tensor) {
    TMT_CHECK(tensor.dim() == 4 && tensor.size(0) == s.batch && tensor.size(1) == s.heads &&
                  tensor.size(2) == s.queries && tensor.size(3) == s.dim,
              "masked_attention: ", name, " must have the shape of query ", shape(query), ", got ", shape(tensor));
    check_like_query(name, tensor, query);
  };
  like_query("grad_output", grad_output);
  like_query("output", output);
  TMT_CHECK(lse.dim() == 3 && lse.size(0) == s.batch && lse.size(1) == s.heads && lse.size(2) == s.queries,
            "masked_attention: lse must be (B, heads, N), got ", shape(lse));
  TMT_CHECK(lse.scalar_type() == accumulate_dtype(query),
            "masked_attention: lse must be the lse of packed_attention, got ", dtype_name(lse));
  TMT_CHECK(same_device(lse, query), "masked_attention: lse must be on the device of query, got another device");
  return s;
}

inline void check_transfer(const Tensor& transferability, const std::optional<Tensor>& threshold, const MaskShape& s) {
  TMT_CHECK(transferability.dim() == 2 && transferability.size(0) == s.batch && transferability.size(1) == s.keys,
            "pack_mask: transferability must be (B, S) = (", s.batch, ", ", s.keys, "), got ", shape(transferability));
  TMT_CHECK(is_floating(transferability), "pack_mask: transferability must be floating-point, got ",
            dtype_name(transferability));
  TMT_CHECK(threshold.has_value(), "pack_mask: transfer_threshold must be given with transferability, got None");
  TMT_CHECK(threshold->dim() == 1 && threshold->size(0) == s.batch, "pack_mask: transfer_threshold must be (B,) = (",
            s.batch, ",), got ", shape(*threshold));
  TMT_CHECK(threshold->scalar_type() == ScalarType::Float, "pack_mask: transfer_threshold must be float32, got ",
            dtype_name(*threshold));
  TMT_CHECK(same_device(*threshold, transferability),
            "pack_mask: transfer_threshold must be on the device of transferability, got another device");
}

inline void check_mask_options(double mask_logit_threshold, int64_t rule, int64_t fallback) {
  TMT_CHECK(mask_logit_threshold == mask_logit_threshold, "pack_mask: mask_logit_threshold must be a number, got NaN");
  TMT_CHECK(rule >= kRuleNone && rule <= kRuleForeground,
            "pack_mask: rule must be 0 (none), 1 (uncertain) or 2 (foreground), got ", rule);
  TMT_CHECK(fallback == kFallbackAll || fallback == kFallbackTransfer,
            "pack_mask: fallback must be 0 (all) or 1 (transfer), got ", fallback);
}

// mask_logits (B, N, S) or absent, transferability (B, S) or absent, not both; transfer_threshold (B,) float32. N is
// `queries` where mask_logits is absent.
inline MaskShape check_pack_mask(const std::optional<Tensor>& mask_logits, const std::optional<Tensor>& transferability,
                                 const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                 int64_t rule, int64_t fallback, int64_t queries) {
  TMT_CHECK(mask_logits || transferability, "pack_mask: mask_logits or transferability must be given, got neither");
  check_mask_options(mask_logit_threshold, rule, fallback);
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
  if (transferability) check_transfer(*transferability, transfer_threshold, s);
  TMT_CHECK(transferability || !transfer_threshold,
            "pack_mask: transferability must be given with transfer_threshold, got None");
  TMT_CHECK(!mask_logits || !transferability || same_device(*mask_logits, *transferability),
            "pack_mask: transferability must be on the device of mask_logits, got another device");
  return s;
}

}  // namespace tmt
