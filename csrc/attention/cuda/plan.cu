// Plans the order of the keys (attention/cuda/plan.cuh) and gathers the rows' bits in that order. The bits are read
// three times, from the second-level cache after the first; what is written is 4 bytes a key and N / 8 bytes a key.
#include "attention/cuda/plan.cuh"

namespace tmt::attention::cuda {
namespace {

constexpr int kOrderThreads = 1024, kOrderWarps = kOrderThreads / kWarpSize;
constexpr int kChunkWords = 128;                         // words of bits that are ordered at a time
constexpr int kRowGroups = kOrderThreads / kChunkWords;  // rows are shared out over so many groups of threads
constexpr int kChunkWarps = kChunkWords / kWarpSize;
constexpr int kArrangeThreads = 128;

struct Bits {
  AttentionShape shape;
  const uint64_t* words;  // (B, N, ceil(S / 64))

  __device__ uint64_t word(int64_t image, int64_t query, int64_t number) const {
    return words[(image * shape.queries + query) * mask_words(shape.keys) + number] & valid_bits(number, shape.keys);
  }
};

struct OrderTile {
  uint64_t groups[kRowGroups][kChunkWords];  // each group's union
  uint64_t united[kChunkWords];
  int before[kChunkWords];  // set bits of `united` in the words before, within the warp's 32
  int totals[kChunkWarps];
  int full_rows[kOrderWarps];
};

// Marks in `full` (N,) the rows that have every bit; returns whether there are any, alike in the whole block. Warp =
// row.
__device__ bool mark_full_rows(OrderTile& tile, int32_t* full, const Bits& bits, int64_t image) {
  const int64_t words = mask_words(bits.shape.keys);
  int count = 0;
  for (int64_t row = warp_index(); row < bits.shape.queries; row += kOrderWarps) {
    bool lacks = false;
#pragma unroll 4
    for (int64_t word = lane_index(); word < words; word += kWarpSize)
      lacks |= bits.word(image, row, word) != valid_bits(word, bits.shape.keys);
    const bool whole = ballot(lacks) == 0;
    if (lane_index() == 0) full[row] = whole;
    count += whole;
  }
  return sum_over_warps<kOrderWarps>(count, tile.full_rows) > 0;
}

// tile.united = the union of the ordinary rows' words first.. Thread = word and group of rows.
__device__ void unite_rows(OrderTile& tile, const int32_t* full, const Bits& bits, int64_t image, int64_t first) {
  const int column = threadIdx.x % kChunkWords, group = threadIdx.x / kChunkWords;
  uint64_t word = 0;
  if (first + column < mask_words(bits.shape.keys)) {
#pragma unroll 4
    for (int64_t row = group; row < bits.shape.queries; row += kRowGroups)
      if (!full[row]) word |= bits.word(image, row, first + column);
  }
  tile.groups[group][column] = word;
  block_barrier();
  if (group != 0) return;
  for (int other = 1; other < kRowGroups; ++other) word |= tile.groups[other][column];
  tile.united[column] = word;
}

// tile.before and tile.totals from tile.united. The first kChunkWords threads call.
__device__ void count_before(OrderTile& tile) {
  const int count = count_bits(tile.united[threadIdx.x]);
  int sum = count;
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int other = shuffle(sum, lane_index() >= distance ? lane_index() - distance : lane_index());
    if (lane_index() >= distance) sum += other;
  }
  tile.before[threadIdx.x] = sum - count;
  if (lane_index() == kWarpSize - 1) tile.totals[warp_index()] = sum;
}

// Puts the keys of the chunk's words into the order: members of the union forward from position `carry`, the others
// backward from the end. Warp = word, lane = two of its keys.
__device__ void place_keys(const OrderTile& tile, int32_t* order, int64_t keys, int64_t first, int carry) {
  for (int column = warp_index(); column < kChunkWords; column += kOrderWarps) {
    const uint64_t united = tile.united[column];
    int base = carry + tile.before[column];
    for (int warp = 0; warp < column / kWarpSize; ++warp) base += tile.totals[warp];
#pragma unroll
    for (int bit = lane_index(); bit < kWordKeys; bit += kWarpSize) {
      const int64_t key = (first + column) * kWordKeys + bit;
      if (key >= keys) continue;
      const int64_t position = base + count_bits(united & ((uint64_t{1} << bit) - 1));
      const bool member = united >> bit & 1u;
      order[member ? position : keys - 1 - (key - position)] = static_cast<int32_t>(key);
    }
  }
}

// Block = image.
__global__ void __launch_bounds__(kOrderThreads) order_keys(Bits bits, KeyPlan plan) {
  OrderTile& tile = shared_tile<OrderTile>();
  const int64_t image = blockIdx.x, keys = bits.shape.keys;
  int32_t *full = plan.full(image), *order = plan.order(image);
  const bool any_full = mark_full_rows(tile, full, bits, image);  // ends with a barrier
  int carry = 0;
  for (int64_t first = 0; first < mask_words(keys); first += kChunkWords) {
    unite_rows(tile, full, bits, image, first);
    if (threadIdx.x < kChunkWords) count_before(tile);
    block_barrier();
    place_keys(tile, order, keys, first, carry);
    for (int warp = 0; warp < kChunkWarps; ++warp) carry += tile.totals[warp];
    block_barrier();
  }
  if (threadIdx.x == 0) *plan.count(image) = any_full ? static_cast<int32_t>(keys) : carry;
}

// The rows' bits in the order of the keys. Block = (image, tile of 64 keys), warp = 32 rows, lane = two keys; a lane
// keeps the word of one row, so that they are written together.
__global__ void __launch_bounds__(kArrangeThreads) arrange_bits(Bits bits, KeyPlan plan) {
  const AttentionShape& s = bits.shape;
  const int64_t image = blockIdx.x / plan.tiles, tile = blockIdx.x % plan.tiles;
  const int64_t count = plan.count_keys(image);
  if (tile * kTileKeys >= count) return;  // the whole block
  const int32_t* order = plan.order(image);
  uint64_t* words = plan.words(image) + tile * plan.rows;
  int32_t key[2];  // -1 beyond the count
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t position = tile * kTileKeys + key_of_bit(lane_index() + half * kWarpSize);
    key[half] = position < count ? order[position] : -1;
  }
  for (int64_t first = warp_index() * kWarpSize; first < plan.rows; first += kArrangeThreads) {
    uint64_t mine = 0;
#pragma unroll 4
    for (int i = 0; i < kWarpSize; ++i) {
      const bool exists = first + i < s.queries;
      bool bit[2];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        bit[half] = exists && key[half] >= 0 &&
                    (bits.word(image, first + i, key[half] / kWordKeys) >> (key[half] % kWordKeys) & 1u);
      const uint64_t low = ballot(bit[0]), high = ballot(bit[1]);
      if (lane_index() == i) mine = high << kWarpSize | low;
    }
    if (first + lane_index() < plan.rows) words[first + lane_index()] = mine;
  }
}

KeyPlan plan_of(const AttentionShape& shape, uint64_t* memory) {
  const int64_t rows = (shape.queries + kFragmentRows - 1) / kFragmentRows * kFragmentRows;
  return {memory, shape.keys, mask_words(shape.keys), rows};
}

}  // namespace

Tensor plan_keys(const Context& context, const AttentionShape& shape, const std::optional<Tensor>& bits,
                 const Tensor& like) {
  const int64_t words = bits ? plan_of(shape, nullptr).image_words() : 0;
  const Tensor memory = empty(like, ScalarType::Long, shape.batch, words);
  if (!bits) return memory;
  const Bits given{shape, input<uint64_t>(bits)};
  const KeyPlan plan = plan_of(shape, output<uint64_t>(memory));
  launch(context, {shape.batch, kOrderThreads, sizeof(OrderTile)}, order_keys, given, plan);
  launch(context, {shape.batch * plan.tiles, kArrangeThreads}, arrange_bits, given, plan);
  return memory;
}

KeyPlan planned_keys(const AttentionShape& shape, const Tensor& plan) {
  const KeyPlan planned = plan_of(shape, plan.size(1) == 0 ? nullptr : output<uint64_t>(plan));
  TMT_CHECK(!planned.exists() || (plan.size(1) == planned.image_words() && plan.is_contiguous()),
            "packed_attention: plan must be the plan of packed_attention for these shapes, got ", tmt::shape(plan));
  return planned;
}

}  // namespace tmt::attention::cuda
