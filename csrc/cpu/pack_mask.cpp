// pack_mask on the CPU: decides once, for all heads, where each query may attend.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../masked_attention.h"
#include "host.h"

namespace tmt::cpu {
namespace {

void check_threshold_values(const Tensor& threshold) {
  const float* values = threshold.const_data_ptr<float>();
  for (int64_t b = 0; b < threshold.size(0); ++b)
    TMT_CHECK(values[b] >= 0.0f && values[b] <= 1.0f, "pack_mask: transfer_threshold must be in [0, 1], got ",
              values[b]);
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(torch::stable::contiguous(*tensor)) : std::nullopt;
}

PackArgs pack_args(const MaskShape& s, const std::optional<Tensor>& mask, const std::optional<Tensor>& transfer,
                   const std::optional<Tensor>& threshold) {
  PackArgs args{};
  args.batch = s.batch;
  args.queries = s.queries;
  args.keys = s.keys;
  args.words = mask_words(s.keys);
  if (mask) {
    args.mask = mask->const_data_ptr();
    args.mask_storage = storage_of(*mask);
  }
  if (transfer) {
    args.transfer = transfer->const_data_ptr();
    args.transfer_storage = storage_of(*transfer);
    args.transfer_threshold = threshold->const_data_ptr<float>();
  }
  return args;
}

void pack(PackArgs& args) {
  std::vector<uint64_t> transfer_bits(args.transfer ? args.batch * args.words : 0);
  args.transfer_bits = transfer_bits.data();
  if (args.transfer) TMT_SIMD_CALL(pack_transfer, args, 0, args.batch);
  const int64_t grain = 1 + (1 << 15) / (args.keys + 1);
  torch::stable::parallel_for(0, args.batch * args.queries, grain,
                              [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(pack_rows, args, begin, end); });
}

// mask_logits (B, N, S), transferability (B, S), transfer_threshold (B,) -> bits (B, N, ceil(S / 64)), allowed (B, N).
std::tuple<Tensor, Tensor> pack_mask(const std::optional<Tensor>& mask_logits,
                                     const std::optional<Tensor>& transferability,
                                     const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                     int64_t rule, int64_t fallback, int64_t queries) {
  const MaskShape s =
      check_pack_mask(mask_logits, transferability, transfer_threshold, mask_logit_threshold, rule, fallback, queries);
  const auto mask = contiguous(mask_logits), transfer = contiguous(transferability),
             threshold = contiguous(transfer_threshold);
  if (threshold) check_threshold_values(*threshold);
  PackArgs args = pack_args(s, mask, transfer, threshold);
  args.rule = static_cast<int>(rule);
  args.fallback = static_cast<int>(fallback);
  args.mask_threshold = static_cast<float>(mask_logit_threshold);
  const Tensor& like = mask ? *mask : *transfer;
  Tensor bits = torch::stable::new_empty(like, {s.batch, s.queries, args.words}, ScalarType::Long);
  Tensor allowed = torch::stable::new_empty(like, {s.batch, s.queries}, ScalarType::Int);
  args.bits = reinterpret_cast<uint64_t*>(bits.mutable_data_ptr<int64_t>());
  args.allowed = allowed.mutable_data_ptr<int32_t>();
  pack(args);
  return {bits, allowed};
}

}  // namespace
}  // namespace tmt::cpu

STABLE_TORCH_LIBRARY_IMPL(tmt, CPU, m) { m.impl("pack_mask", TORCH_BOX(&tmt::cpu::pack_mask)); }
