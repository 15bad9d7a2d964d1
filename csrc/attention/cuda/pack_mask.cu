// tmt::pack_mask on CUDA (Eq. 13): where each query may attend, one bit per key, with the fallback applied. The logits
// are read once, 16 bytes at a time, and T once per four rows: at N = 100 in half precision 2 bytes of logits and an
// eighth of a byte of bits go through memory for a pair.
#include "attention/cuda/pack_common.cuh"

namespace tmt::attention::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kMaxRows = 4;  // of a block

struct MaskArguments {
  MaskShape shape;
  float mask_threshold;
  int rule, fallback;
  int rows;          // of a block, at most kMaxRows
  bool at_once;      // reads_eight of the logits
  uint8_t* bits;     // (B, N, 8 ceil(S / 64))
  int32_t* allowed;  // (B, N)

  __device__ int64_t row_bytes() const { return mask_words(shape.keys) * sizeof(int64_t); }
};

// How many bits each of a block's rows has, and T alone.
struct Counts {
  int rows[kMaxRows], transfer;
};

// Writes the bits of rows first_row.. of an image and returns the thread's share of the counts. Thread = 8 keys, again
// kThreads bytes further.
template <typename Mask, typename Transfer>
__device__ Counts pack_rows_of(const Mask* logits, const TransferTest<Transfer>& transfer, const MaskArguments& a,
                               uint8_t* bits, int rows) {
  Counts counts = {};
  const int64_t keys = a.shape.keys;
  for (int64_t byte = threadIdx.x; byte < a.row_bytes(); byte += kThreads) {
    const int64_t first = byte * kByteKeys;
    const unsigned passes = transfer.byte(first, keys);
    counts.transfer += count_bits(passes);
#pragma unroll
    for (int row = 0; row < kMaxRows; ++row) {
      if (row >= rows) continue;
      unsigned allowed = passes;
      if (logits != nullptr) {
        float values[kByteKeys];
        load_eight(values, logits + row * keys, first, keys, a.at_once);
        allowed &= byte_of(values, [&](float value) { return mask_allows(value, a.mask_threshold, a.rule); });
      }
      bits[row * a.row_bytes() + byte] = static_cast<uint8_t>(allowed);
      counts.rows[row] += count_bits(allowed);
    }
  }
  return counts;
}

// The row again by its fallback; every thread writes the bytes that it wrote before.
template <typename Transfer>
__device__ void fall_back(uint8_t* row, const TransferTest<Transfer>& transfer, const MaskArguments& a,
                          bool by_transfer) {
  for (int64_t byte = threadIdx.x; byte < a.row_bytes(); byte += kThreads) {
    const int64_t first = byte * kByteKeys;
    row[byte] =
        static_cast<uint8_t>(by_transfer ? transfer.byte(first, a.shape.keys) : valid_byte(first, a.shape.keys));
  }
}

// Block = (image, a.rows rows).
template <typename Mask, typename Transfer>
__global__ void __launch_bounds__(kThreads)
    pack_rows(const Mask* mask_logits, Transfers<Transfer> transfers, MaskArguments a) {
  int* scratch = shared_tile<int[kWarps]>();
  const int64_t blocks = (a.shape.queries + a.rows - 1) / a.rows;
  const int64_t image = blockIdx.x / blocks, first_row = blockIdx.x % blocks * a.rows;
  const int64_t row = image * a.shape.queries + first_row, left = a.shape.queries - first_row;
  const int rows = left < a.rows ? static_cast<int>(left) : a.rows;
  const Mask* logits = mask_logits == nullptr ? nullptr : mask_logits + row * a.shape.keys;
  const TransferTest<Transfer> transfer = transfers.of_image(image, a.shape.keys);
  uint8_t* bits = a.bits + row * a.row_bytes();

  const Counts counts = pack_rows_of(logits, transfer, a, bits, rows);
  const bool by_transfer =
      a.fallback == kFallbackTransfer && sum_over_warps<kWarps>(sum_over_lanes(counts.transfer), scratch) > 0;
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i >= rows) continue;  // the same in the whole block, as what follows
    const int allowed = sum_over_warps<kWarps>(sum_over_lanes(counts.rows[i]), scratch);
    if (threadIdx.x == 0) a.allowed[row + i] = allowed;
    if (allowed == 0) fall_back(bits + i * a.row_bytes(), transfer, a, by_transfer);
  }
}

// mask_logits (B, N, S), transferability (B, S), transfer_threshold (B,)
// -> bits (B, N, ceil(S / 64)) int64, allowed (B, N) int32
std::tuple<Tensor, Tensor> pack_mask(const std::optional<Tensor>& mask_logits,
                                     const std::optional<Tensor>& transferability,
                                     const std::optional<Tensor>& transfer_threshold, double mask_logit_threshold,
                                     int64_t rule, int64_t fallback, int64_t queries) {
  const MaskShape s =
      check_pack_mask(mask_logits, transferability, transfer_threshold, mask_logit_threshold, rule, fallback, queries);
  const auto logits = dense(mask_logits), transfer = dense(transferability), limit = dense(transfer_threshold);
  const Tensor& like = logits ? *logits : *transfer;
  const Tensor bits = empty(like, ScalarType::Long, s.batch, s.queries, mask_words(s.keys));
  const Tensor allowed = empty(like, ScalarType::Int, s.batch, s.queries);
  const Context context(like);
  // Several rows share T's test; but where that left multiprocessors idle, each row has its own block.
  const int rows = s.batch * s.queries >= 2 * kMaxRows * context.multiprocessors() ? kMaxRows : 1;
  const void* values = logits ? logits->const_data_ptr() : nullptr;
  const MaskArguments arguments{s,
                                static_cast<float>(mask_logit_threshold),
                                static_cast<int>(rule),
                                static_cast<int>(fallback),
                                rows,
                                reads_eight(values, s.keys),
                                reinterpret_cast<uint8_t*>(output<int64_t>(bits)),
                                output<int32_t>(allowed)};
  const Blocks blocks{s.batch * ((s.queries + rows - 1) / rows), kThreads, sizeof(int[kWarps])};
  dispatch_optional("pack_mask", logits, [&](auto mask) {
    dispatch_optional("pack_mask", transfer, [&](auto source) {
      using Mask = typename decltype(mask)::type;
      using Transfer = typename decltype(source)::type;
      launch(context, blocks, pack_rows<Mask, Transfer>, input<Mask>(logits),
             transfers_of<Transfer>(transfer, limit, s.keys), arguments);
    });
  });
  return {bits, allowed};
}

}  // namespace
}  // namespace tmt::attention::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("pack_mask", TORCH_BOX(&tmt::attention::cuda::pack_mask));
}
