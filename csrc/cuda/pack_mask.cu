// tmt::pack_mask on CUDA (Eq. 13): where each query may attend, one bit per key, with the fallback applied.
#include "cuda/launch.cuh"
#include "masked_attention.h"

namespace tmt::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;

struct MaskArguments {
  MaskShape shape;
  const float* transfer_threshold;  // (B,)
  float mask_threshold;
  int rule, fallback;
  int64_t* bits;     // (B, N, ceil(S / 64))
  int32_t* allowed;  // (B, N)
};

// Writes one row of bits and returns how many are set. Thread mapping: each warp makes every kWarps-th word, each lane
// decides keys `lane` and `lane + 32` of it.
template <typename Decide>
__device__ int pack_row(int64_t* row, int64_t keys, int* scratch, const Decide& decide) {
  int count = 0;
  for (int64_t word = warp_index(); word < mask_words(keys); word += kWarps) {
    const int64_t low_key = word * kWordKeys + lane_index(), high_key = low_key + kWarpSize;
    const unsigned low = ballot(low_key < keys && decide(low_key));
    const unsigned high = ballot(high_key < keys && decide(high_key));
    if (lane_index() == 0) row[word] = static_cast<int64_t>(static_cast<uint64_t>(high) << kWarpSize | low);
    count += count_bits(low) + count_bits(high);
  }
  return sum_over_warps<kWarps>(count, scratch);
}

// Block = row (b, n): the row, and where nothing is allowed, the row again by its fallback.
template <typename Mask, typename Transfer>
__global__ void __launch_bounds__(kThreads)
    pack_rows(const Mask* mask_logits, const Transfer* transferability, MaskArguments arguments) {
  int* scratch = shared_tile<int[kWarps]>();
  const int64_t keys = arguments.shape.keys, image = blockIdx.x / arguments.shape.queries;
  const Mask* logits = mask_logits == nullptr ? nullptr : mask_logits + blockIdx.x * keys;
  const Transfer* transfer = transferability == nullptr ? nullptr : transferability + image * keys;
  const float transfer_threshold = transfer == nullptr ? 0.f : arguments.transfer_threshold[image];
  int64_t* row = arguments.bits + blockIdx.x * mask_words(keys);

  const auto transferable = [&](int64_t key) {
    return transfer == nullptr || transfer_allows(static_cast<float>(transfer[key]), transfer_threshold);
  };
  const auto both = [&](int64_t key) {
    return transferable(key) && (logits == nullptr || mask_allows(static_cast<float>(logits[key]),
                                                                  arguments.mask_threshold, arguments.rule));
  };
  const int allowed = pack_row(row, keys, scratch, both);
  if (threadIdx.x == 0) arguments.allowed[blockIdx.x] = allowed;
  if (allowed > 0) return;  // the same in the whole block
  if (arguments.fallback == kFallbackTransfer && pack_row(row, keys, scratch, transferable) > 0) return;
  pack_row(row, keys, scratch, [](int64_t) { return true; });
}

// A tensor that is absent is passed as a null pointer of whatever type.
template <typename Function>
void dispatch_optional(const std::optional<Tensor>& tensor, const Function& function) {
  if (tensor) return dispatch_dtype("pack_mask", *tensor, function);
  function(Type<float>{});
}

// mask_logits (B, N, S), transferability (B, S), transfer_threshold (B,)
// -> bits (B, N, ceil(S / 64)) int64, allowed (B, N) int32
std::tuple<Tensor, Tensor> pack_mask(const std::optional<Tensor>& mask_logits,
                                     const std::optional<Tensor>& transferability,
                                     const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                     int64_t rule, int64_t fallback, int64_t queries) {
  const MaskShape shape =
      check_pack_mask(mask_logits, transferability, transfer_threshold, mask_logit_threshold, rule, fallback, queries);
  const auto logits = contiguous(mask_logits), transfer = contiguous(transferability),
             limit = contiguous(transfer_threshold);
  const Tensor& like = logits ? *logits : *transfer;
  const Tensor bits =
      torch::stable::new_empty(like, {shape.batch, shape.queries, mask_words(shape.keys)}, ScalarType::Long);
  const Tensor allowed = torch::stable::new_empty(like, {shape.batch, shape.queries}, ScalarType::Int);
  const MaskArguments arguments{shape,
                                input<float>(limit),
                                static_cast<float>(mask_logit_threshold),
                                static_cast<int>(rule),
                                static_cast<int>(fallback),
                                output<int64_t>(bits),
                                output<int32_t>(allowed)};
  const Context context(like);
  const Blocks rows{shape.batch * shape.queries, kThreads, sizeof(int[kWarps])};
  dispatch_optional(logits, [&](auto mask) {
    dispatch_optional(transfer, [&](auto source) {
      using Mask = typename decltype(mask)::type;
      using Transfer = typename decltype(source)::type;
      launch(context, rows, pack_rows<Mask, Transfer>, input<Mask>(logits), input<Transfer>(transfer), arguments);
    });
  });
  return {bits, allowed};
}

}  // namespace
}  // namespace tmt::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) { m.impl("pack_mask", TORCH_BOX(&tmt::cuda::pack_mask)); }
