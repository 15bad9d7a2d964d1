// pack_mask and pack_predicted_mask on the CPU: decide once, for all heads, where each query may attend.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "attention/checks.h"
#include "attention/cpu/args.h"
#include "common/cpu/host.h"

namespace tmt::attention::cpu {
namespace {

using torch::stable::parallel_for;

void check_threshold_values(const char* op, const Tensor& threshold) {
  const float* values = threshold.const_data_ptr<float>();
  for (int64_t b = 0; b < threshold.size(0); ++b)
    TMT_CHECK(values[b] >= 0.0f && values[b] <= 1.0f, op, ": transfer_threshold must be in [0, 1], got ", values[b],
              values[b] == values[b] ? "" : "; a quantile is NaN where transferability holds one");
}

// transferability (B, S) and its threshold (B,), contiguous and checked, or neither; and T's bits, once made.
class Transfer {
 public:
  Transfer(const char* op, const std::optional<Tensor>& transferability, const std::optional<Tensor>& threshold)
      : values_(dense(transferability)), threshold_(dense(threshold)) {
    if (threshold_) check_threshold_values(op, *threshold_);
  }

  // Fills in T's part of `args` and makes its bits; they live as long as this object.
  void pack(MaskArgs& args) {
    if (!values_) return;
    bits_.resize(args.batch * args.words);
    args.transfer = values_->const_data_ptr();
    args.transfer_element = element_of(*values_);
    args.transfer_threshold = threshold_->const_data_ptr<float>();
    args.transfer_bits = bits_.data();
    TMT_SIMD_CALL(pack_transfer, args, 0, args.batch);
  }

 private:
  std::optional<Tensor> values_, threshold_;
  std::vector<uint64_t> bits_;
};

struct Packed {
  Tensor bits, allowed;  // (B, N, words) int64, (B, N) int32
};

// Allocates the results beside `like` and fills in what every packer is told.
Packed prepare(MaskArgs& args, const MaskShape& s, const Tensor& like, double threshold, int64_t rule,
               int64_t fallback) {
  args.batch = s.batch;
  args.queries = s.queries;
  args.keys = s.keys;
  args.words = mask_words(s.keys);
  args.rule = static_cast<int>(rule);
  args.fallback = static_cast<int>(fallback);
  args.mask_threshold = static_cast<float>(threshold);
  Packed packed{torch::stable::new_empty(like, {s.batch, s.queries, args.words}, ScalarType::Long),
                torch::stable::new_empty(like, {s.batch, s.queries}, ScalarType::Int)};
  args.bits = reinterpret_cast<uint64_t*>(packed.bits.mutable_data_ptr<int64_t>());
  args.allowed = packed.allowed.mutable_data_ptr<int32_t>();
  return packed;
}

// Rows for one thread, so that a task is worth its start.
int64_t row_grain(const MaskArgs& args) { return 1 + (1 << 15) / (args.keys + 1); }

// mask_logits (B, N, S), transferability (B, S), transfer_threshold (B,) -> bits (B, N, ceil(S / 64)), allowed (B, N).
std::tuple<Tensor, Tensor> pack_mask(const std::optional<Tensor>& mask_logits,
                                     const std::optional<Tensor>& transferability,
                                     const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                     int64_t rule, int64_t fallback, int64_t queries) {
  const MaskShape s =
      check_pack_mask(mask_logits, transferability, transfer_threshold, mask_logit_threshold, rule, fallback, queries);
  const auto mask = dense(mask_logits);
  Transfer transfer("pack_mask", transferability, transfer_threshold);
  PackArgs args{};
  Packed packed = prepare(args, s, mask ? *mask : *transferability, mask_logit_threshold, rule, fallback);
  if (mask) {
    args.mask = mask->const_data_ptr();
    args.element = element_of(*mask);
  }
  transfer.pack(args);
  parallel_for(0, s.batch * s.queries, row_grain(args),
               [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(pack_rows, args, begin, end); });
  return {packed.bits, packed.allowed};
}

void predict(const PredictArgs& args) {
  const size_t bytes = args.element == Element::float64 ? sizeof(double) : sizeof(float);
  const int64_t groups = args.batch * row_groups(args.queries);
  const Scratch embeddings(bytes * groups * kGroupRows * args.channels);
  PredictArgs with_scratch = args;
  with_scratch.packed = embeddings.get();
  parallel_for(0, groups, 4,
               [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(pack_embeddings, with_scratch, begin, end); });
  parallel_for(0, args.batch * strips(args.words), 1, [&](int64_t begin, int64_t end) {
    const Scratch features(bytes * predict_scratch(args.channels));
    TMT_SIMD_CALL(predict_strips, with_scratch, begin, end, features.get());
  });
  parallel_for(0, args.batch * args.queries, row_grain(args),
               [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(finish_rows, args, begin, end); });
}

// mask_embeddings (B, N, E), mask_features (B, E, S), transferability (B, S), transfer_threshold (B,) -> as pack_mask.
std::tuple<Tensor, Tensor> pack_predicted_mask(const Tensor& mask_embeddings, const Tensor& mask_features,
                                               const std::optional<Tensor>& transferability,
                                               const std::optional<Tensor>& transfer_threshold,
                                               double mask_logit_threshold, int64_t rule, int64_t fallback) {
  const MaskShape s = check_pack_predicted_mask(mask_embeddings, mask_features, transferability, transfer_threshold,
                                                mask_logit_threshold, rule, fallback);
  const Tensor embeddings = dense(mask_embeddings), features = dense(mask_features);
  Transfer transfer("pack_predicted_mask", transferability, transfer_threshold);
  PredictArgs args{};
  Packed packed = prepare(args, s, embeddings, mask_logit_threshold, rule, fallback);
  args.element = element_of(embeddings);
  args.channels = embeddings.size(2);
  args.embeddings = embeddings.const_data_ptr();
  args.features = features.const_data_ptr();
  transfer.pack(args);
  predict(args);
  return {packed.bits, packed.allowed};
}

}  // namespace
}  // namespace tmt::attention::cpu

STABLE_TORCH_LIBRARY_IMPL(tmt, CPU, m) {
  m.impl("pack_mask", TORCH_BOX(&tmt::attention::cpu::pack_mask));
  m.impl("pack_predicted_mask", TORCH_BOX(&tmt::attention::cpu::pack_predicted_mask));
}
