// tmt::pack_predicted_mask on CUDA: the logits mask_embeddings . mask_features are formed in registers, tested there
// and become bits. In half precision on tensor cores, a block has up to 128 queries and 128 keys, and the features are
// read from memory once: 2 E bytes a key, at E = 256 and N = 100 five bytes for each pair that is decided. Otherwise by
// multiply-adds, a thread having one key and 16 queries at a time.
#include "attention/cuda/pack_common.cuh"
#include "attention/cuda/tile.cuh"

namespace tmt::attention::cuda {
namespace {

constexpr int kMaxRowWarps = 8;
constexpr int kBlockRows = kMaxRowWarps * kFragmentRows, kBlockKeys = 128, kBlockWords = kBlockKeys / kWordKeys;
constexpr int kDepth = 32;  // channels in shared memory at a time
constexpr int kStages = 3;
constexpr int kScalarRows = 16, kScalarDepth = 64;

struct PredictArguments {
  MaskShape shape;
  int64_t channels;
  float mask_threshold;
  int rule, fallback;
  const uint64_t* transfer;  // (B, ceil(S / 64)): which keys pass T
  uint64_t* bits;            // (B, N, ceil(S / 64))
  int32_t* allowed;          // (B, N)

  __device__ int64_t words() const { return mask_words(shape.keys); }
};

// T's bits, or all that exist without T. Thread = byte of (B, 8 ceil(S / 64)).
template <typename Transfer>
__global__ void __launch_bounds__(256) pack_transfer(Transfers<Transfer> transfers, MaskShape shape, uint8_t* bits) {
  const int64_t bytes = mask_words(shape.keys) * sizeof(int64_t), i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= shape.batch * bytes) return;
  const TransferTest<Transfer> transfer = transfers.of_image(i / bytes, shape.keys);
  bits[i] = static_cast<uint8_t>(transfer.byte(i % bytes * kByteKeys, shape.keys));
}

// ---- tensor cores ---------------------------------------------------------------------------------------------------

struct PredictStage {
  MatrixTile<kBlockRows, kDepth> embeddings;
  MatrixTile<kDepth, kBlockKeys> features;
};
struct PredictTile {
  PredictStage stage[kStages];
};

// Starts to fetch channels first.. of the block's embeddings (N, E) and features (E, S), zeros beyond their ends. Every
// thread keeps to one chunk of the rows.
template <typename T>
__device__ void fetch_channels(PredictStage& stage, const T* embeddings, const T* features, const PredictArguments& a,
                               int first_row, int first_key, int first) {
  constexpr int kEmbeddingChunks = kDepth / kChunkElements, kFeatureChunks = kBlockKeys / kChunkElements;
  static_assert(kWarpSize % kEmbeddingChunks == 0 && kWarpSize % kFeatureChunks == 0);
  const int channels = static_cast<int>(a.channels), queries = static_cast<int>(a.shape.queries), thread = threadIdx.x;
  if (first < channels) {
    const int chunk = thread % kEmbeddingChunks, channel = first + chunk * kChunkElements;
#pragma unroll 1
    for (int row = thread / kEmbeddingChunks; row < static_cast<int>(blockDim.x) / 2;
         row += blockDim.x / kEmbeddingChunks) {
      const bool inside = first_row + row < queries && channel < channels;
      const int64_t offset = inside ? int64_t{first_row + row} * channels + channel : 0;
      copy_async(&stage.embeddings.at(row, chunk), embeddings + offset, inside);
    }
    const int feature_chunk = thread % kFeatureChunks, key = first_key + feature_chunk * kChunkElements;
#pragma unroll 1
    for (int row = thread / kFeatureChunks; row < kDepth; row += blockDim.x / kFeatureChunks) {
      const bool inside = first + row < channels && key < a.shape.keys;
      const int64_t offset = inside ? (first + row) * a.shape.keys + key : 0;
      copy_async(&stage.features.at(row, feature_chunk), features + offset, inside);
    }
  }
  commit_copies();
}

using LogitTile = float[kBlockKeys / 8][4];  // of a warp's 16 queries

template <typename T>
__device__ __forceinline__ void add_channels(LogitTile& logits, const PredictStage& stage) {
#pragma unroll 1
  for (int step = 0; step < kDepth / 16; ++step) {
    uint32_t left[4];
    load_left(left, stage.embeddings, warp_index() * kFragmentRows, 2 * step);
#pragma unroll
    for (int pair = 0; pair < kBlockKeys / 16; ++pair) {
      uint32_t right[4];
      load_right(right, stage.features, step * 16, 2 * pair);
      multiply_pair<T>(logits[2 * pair], logits[2 * pair + 1], left, right);
    }
  }
}

// Half a word: 32 keys from 32 part on, of the lane's row fragment_row() + 8 half. In all four lanes of the row.
__device__ __forceinline__ uint32_t decide_part(const LogitTile& logits, int half, int part,
                                                const PredictArguments& a) {
  uint32_t bits = 0;
#pragma unroll
  for (int tile = 0; tile < 4; ++tile)
#pragma unroll
    for (int e = 0; e < 2; ++e)
      if (mask_allows(logits[part * 4 + tile][half * 2 + e], a.mask_threshold, a.rule)) bits |= 1u << (tile * 8 + e);
  bits <<= fragment_column();
  bits |= shuffle_xor(bits, 1);
  return bits | shuffle_xor(bits, 2);
}

// Writes the warp's bits; of the four lanes of a row, the first kBlockWords write a word each.
__device__ void store_bits(const LogitTile& logits, const PredictArguments& a, int64_t image, int64_t first_row,
                           int64_t first_word) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int number = 0; number < kBlockWords; ++number) {
      const uint64_t low = decide_part(logits, half, 2 * number, a),
                     high = decide_part(logits, half, 2 * number + 1, a);
      const int64_t row = first_row + fragment_row() + half * 8, word = first_word + number;
      if (lane_index() % 4 == number && row < a.shape.queries && word < a.words())
        a.bits[(image * a.shape.queries + row) * a.words() + word] =
            (high << kWarpSize | low) & a.transfer[image * a.words() + word];
    }
}

// Block = (image, 128 keys, 16 rows to a warp), the rows fastest. Where T excludes all keys, nothing is read.
template <typename T>
__global__ void __launch_bounds__(kMaxRowWarps* kWarpSize, 2)
    predict_rows(const T* embeddings, const T* features, PredictArguments a, int row_blocks) {
  PredictTile& tile = shared_tile<PredictTile>();
  const unsigned key_blocks = static_cast<unsigned>((a.words() + kBlockWords - 1) / kBlockWords);
  const unsigned key_block = blockIdx.x / row_blocks % key_blocks;
  const int64_t image = blockIdx.x / row_blocks / key_blocks, first_word = int64_t{key_block} * kBlockWords;
  const int first_row = static_cast<int>(blockIdx.x % row_blocks * (blockDim.x / kWarpSize * kFragmentRows));
  const uint64_t* transfer = a.transfer + image * a.words() + first_word;
  const bool any = (transfer[0] | (first_word + 1 < a.words() ? transfer[1] : 0)) != 0;
  embeddings += image * a.shape.queries * a.channels;
  features += image * a.channels * a.shape.keys;

  LogitTile logits = {};
  const auto fetch = [&](int number) {
    fetch_channels(tile.stage[number % kStages], embeddings, features, a, first_row,
                   static_cast<int>(first_word * kWordKeys), number * kDepth);
  };
  if (any) {
    const int steps = static_cast<int>((a.channels + kDepth - 1) / kDepth);
    for (int i = 0; i < kStages - 1; ++i) fetch(i);
    for (int i = 0; i < steps; ++i) {
      wait_copies<kStages - 2>();
      block_barrier();
      fetch(i + kStages - 1);
      add_channels<T>(logits, tile.stage[i % kStages]);
    }
    wait_copies<0>();
  }
  store_bits(logits, a, image, first_row + warp_index() * kFragmentRows, first_word);
}

// ---- multiply-adds --------------------------------------------------------------------------------------------------

// Block = (image, 128 keys), thread = key; 16 queries at a time, whose embeddings lie in shared memory.
template <typename T>
__global__ void __launch_bounds__(kBlockKeys) predict_keys(const T* embeddings, const T* features, PredictArguments a) {
  using Embeddings = float[kScalarDepth][kScalarRows];
  Embeddings& shared = shared_tile<Embeddings>();
  const int64_t key_blocks = (a.words() + kBlockWords - 1) / kBlockWords, image = blockIdx.x / key_blocks;
  const int64_t first_key = blockIdx.x % key_blocks * kBlockKeys, key = first_key + threadIdx.x;
  const int64_t part = first_key / kWarpSize + warp_index();  // of 32 keys
  const bool exists = key < a.shape.keys, stored = part < 2 * a.words();
  const int channels = static_cast<int>(a.channels), queries = static_cast<int>(a.shape.queries);
  const uint32_t* transfer = reinterpret_cast<const uint32_t*>(a.transfer + image * a.words());
  const uint32_t passes = stored ? transfer[part] : 0;
  embeddings += image * a.shape.queries * a.channels;
  features += image * a.channels * a.shape.keys;

  for (int first_row = 0; first_row < queries; first_row += kScalarRows) {
    float logits[kScalarRows] = {};
    const T* column = features + (exists ? key : 0);  // one channel after the other
    for (int first = 0; first < channels; first += kScalarDepth) {
      block_barrier();
#pragma unroll 1
      for (int i = threadIdx.x; i < kScalarDepth * kScalarRows; i += kBlockKeys) {
        const int row = first_row + i / kScalarDepth, channel = first + i % kScalarDepth;
        const bool inside = row < queries && channel < channels;
        shared[i % kScalarDepth][i / kScalarDepth] =
            inside ? static_cast<float>(embeddings[int64_t{row} * channels + channel]) : 0.f;
      }
      block_barrier();
      const int left = channels - first, depth = left < kScalarDepth ? left : kScalarDepth;
#pragma unroll 4
      for (int channel = 0; channel < depth; ++channel, column += a.shape.keys) {
        const float feature = static_cast<float>(*column);
#pragma unroll
        for (int i = 0; i < kScalarRows; ++i) logits[i] += shared[channel][i] * feature;
      }
    }
#pragma unroll
    for (int i = 0; i < kScalarRows; ++i) {
      const unsigned bits = ballot(mask_allows(logits[i], a.mask_threshold, a.rule)) & passes;
      if (lane_index() == i && stored && first_row + i < queries)
        reinterpret_cast<uint32_t*>(a.bits)[(image * a.shape.queries + first_row + i) * 2 * a.words() + part] = bits;
    }
  }
}

// ---- rows -----------------------------------------------------------------------------------------------------------

// Counts a row's bits, and makes it again by its fallback where it has none. Warp = row.
__global__ void __launch_bounds__(256) finish_rows(PredictArguments a) {
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / kWarpSize) + warp_index();
  if (row >= a.shape.batch * a.shape.queries) return;
  uint64_t* bits = a.bits + row * a.words();
  const uint64_t* transfer = a.transfer + row / a.shape.queries * a.words();
  int count = 0;
  for (int64_t word = lane_index(); word < a.words(); word += kWarpSize) count += count_bits(bits[word]);
  count = sum_over_lanes(count);
  if (lane_index() == 0) a.allowed[row] = count;
  if (count > 0) return;
  uint64_t any = 0;
  if (a.fallback == kFallbackTransfer)
    for (int64_t word = lane_index(); word < a.words(); word += kWarpSize) any |= transfer[word];
  const bool by_transfer = ballot(any != 0) != 0;
  for (int64_t word = lane_index(); word < a.words(); word += kWarpSize)
    bits[word] = by_transfer ? transfer[word] : valid_bits(word, a.shape.keys);
}

// Whole chunks of 16 bytes, as asynchronous copies must have.
bool fits_tensor_cores(const Tensor& embeddings, const Tensor& features) {
  return embeddings.scalar_type() != ScalarType::Float && embeddings.size(2) % kChunkElements == 0 &&
         features.size(2) % kChunkElements == 0;
}

void predict_with_tensor_cores(const Context& context, const Tensor& given_embeddings, const Tensor& given_features,
                               const PredictArguments& a) {
  const Tensor embeddings = aligned(given_embeddings), features = aligned(given_features);
  const int64_t warps = (a.shape.queries + kFragmentRows - 1) / kFragmentRows;
  const int64_t row_blocks = (warps + kMaxRowWarps - 1) / kMaxRowWarps;
  const int64_t key_blocks = (mask_words(a.shape.keys) + kBlockWords - 1) / kBlockWords;
  const int threads = static_cast<int>((warps + row_blocks - 1) / std::max<int64_t>(row_blocks, 1)) * kWarpSize;
  dispatch_half_precision(embeddings, [&](auto type) {
    using T = typename decltype(type)::type;
    launch(context, {a.shape.batch * key_blocks * row_blocks, threads, sizeof(PredictTile)}, predict_rows<T>,
           input<T>(embeddings), input<T>(features), a, static_cast<int>(row_blocks));
  });
}

void predict(const Context& context, const Tensor& embeddings, const Tensor& features, const PredictArguments& a) {
  if (fits_tensor_cores(embeddings, features)) return predict_with_tensor_cores(context, embeddings, features, a);
  const int64_t key_blocks = (mask_words(a.shape.keys) + kBlockWords - 1) / kBlockWords;
  dispatch_dtype("pack_predicted_mask", embeddings, [&](auto type) {
    using T = typename decltype(type)::type;
    launch(context, {a.shape.batch * key_blocks, kBlockKeys, sizeof(float[kScalarDepth][kScalarRows])}, predict_keys<T>,
           input<T>(embeddings), input<T>(features), a);
  });
}

// mask_embeddings (B, N, E), mask_features (B, E, S), transferability (B, S), transfer_threshold (B,)
// -> bits (B, N, ceil(S / 64)) int64, allowed (B, N) int32
std::tuple<Tensor, Tensor> pack_predicted_mask(const Tensor& mask_embeddings, const Tensor& mask_features,
                                               const std::optional<Tensor>& transferability,
                                               const std::optional<Tensor>& transfer_threshold,
                                               double mask_logit_threshold, int64_t rule, int64_t fallback) {
  const MaskShape s = check_pack_predicted_mask(mask_embeddings, mask_features, transferability, transfer_threshold,
                                                mask_logit_threshold, rule, fallback);
  const Tensor embeddings = dense(mask_embeddings), features = dense(mask_features);
  const auto transfer = dense(transferability), limit = dense(transfer_threshold);
  const int64_t words = mask_words(s.keys);
  const Tensor bits = empty(embeddings, ScalarType::Long, s.batch, s.queries, words);
  const Tensor allowed = empty(embeddings, ScalarType::Int, s.batch, s.queries);
  const Tensor transfer_bits = empty(embeddings, ScalarType::Long, s.batch, words);
  const Context context(embeddings);
  const PredictArguments arguments{s,
                                   embeddings.size(2),
                                   static_cast<float>(mask_logit_threshold),
                                   static_cast<int>(rule),
                                   static_cast<int>(fallback),
                                   input<uint64_t>(transfer_bits),
                                   output<uint64_t>(bits),
                                   output<int32_t>(allowed)};
  dispatch_optional("pack_predicted_mask", transfer, [&](auto type) {
    using Transfer = typename decltype(type)::type;
    launch(context, one_thread_each(s.batch * words * static_cast<int64_t>(sizeof(int64_t))), pack_transfer<Transfer>,
           transfers_of<Transfer>(transfer, limit, s.keys), s, output<uint8_t>(transfer_bits));
  });
  if (s.queries > 0) predict(context, embeddings, features, arguments);
  launch(context, one_thread_each(s.batch * s.queries * kWarpSize), finish_rows, arguments);
  return {bits, allowed};
}

}  // namespace
}  // namespace tmt::attention::cuda

STABLE_TORCH_LIBRARY_IMPL(TMT_CUDA_LIBRARY, TMT_CUDA_KEY, m) {
  m.impl("pack_predicted_mask", TORCH_BOX(&tmt::attention::cuda::pack_predicted_mask));
}
