// What a block does with its group in the forward and in the backward pass.
#pragma once

#include "cuda/superpixel_tiles.cuh"

namespace tmt::cuda {

// `lane` is where the image's parts are, `number` the group's in the image.
template <typename T, int kPixels>
class GroupWork {
 public:
  __device__ GroupWork(const Plan& plan, const T* features, const Parts& parts, int image, int lane, int number)
      : plan_(plan),
        group_(plan, image, number),
        memory_(plan),
        features_(features),
        parts_(parts),
        lane_(lane),
        number_(number) {}

  // Starts to load a round of tiles.
  __device__ void load(int first, int slot) const {
    load_tiles<T, kPixels>(memory_.pixels(0), features_, plan_, group_, first, slot);
  }

  // Inverse norms of the pixels of a round's tiles.
  __device__ void measure(int first, int slot) const {
    constexpr int kSlices = kPixels / kSlice;
    for (int i = warp_index(); i < plan_.round * kSlices; i += kGroupWarps) {
      if (Tile(plan_, group_, first + i / kSlices).empty()) continue;
      const int at = slot + i / kSlices;
      measure_slice<T, kPixels>(memory_.inverse_norms(at), memory_.pixels(at), plan_, i % kSlices);
    }
  }

  // Adds scale times the weighted pixels of a round's tiles to the halo's sums.
  __device__ void accumulate_round(int first, int slot, float scale) const {
    for (int i = 0; i < plan_.round; ++i) {
      const Tile tile(plan_, group_, first + i);
      if (tile.empty()) continue;
      accumulate<T, kPixels>(memory_.sums(), memory_.pixels(slot + i), memory_.weights(i), plan_, tile, scale);
    }
  }

  // Writes the halo's sums to the parts in `set`.
  __device__ void publish(int set) const {
    const int quads = plan_.padded_channels / 4;
    float4* to = reinterpret_cast<float4*>(parts_.sums + int64_t{part(set, 0)} * plan_.padded_channels);
    for (int i = threadIdx.x; i < plan_.halo() * quads; i += kGroupThreads)
      to[i] = reinterpret_cast<const float4*>(memory_.sums() + i / quads * plan_.stride)[i % quads];
  }

 protected:
  // Row of the parts that are this group's, or another one's, for a region of its halo.
  __device__ int part(int set, int region) const { return part(set, number_, region); }
  __device__ int part(int set, int group, int region) const { return parts_.row(plan_, set, lane_, group, region); }

  // The rows of the parts that a region's sum consists of: each of `lanes` holds one.
  struct PartRows {
    int row;
    unsigned lanes;
  };

  // A group gives to the regions around it, so that a region has parts of at most nine. Every lane must call.
  __device__ PartRows part_rows(const HaloRegion& region, int set) const {
    const int y = larger(region.row - 1, 0) / plan_.group_rows + lane_index() / 3;
    const int x = larger(region.column - 1, 0) / plan_.group_columns + lane_index() % 3;
    const bool exists = lane_index() < kNeighbours && y * plan_.group_rows <= smaller(region.row + 1, plan_.rows - 1) &&
                        x * plan_.group_columns <= smaller(region.column + 1, plan_.columns - 1);
    const int down = region.row + 1 - y * plan_.group_rows, across = region.column + 1 - x * plan_.group_columns;
    const int group = y * plan_.columns_of_groups + x;
    return {exists ? part(set, group, down * plan_.halo_columns() + across) : 0, ballot(exists)};
  }

  // The sum of a region's parts, always in the same order: channels 4 q .. 4 q + 3 for q = quad and quad + 32. All
  // loads of four parts are on their way before the first is waited for. Every lane must call.
  __device__ void sum_parts(float4 (&total)[2], const PartRows& rows, int quad) const {
    total[0] = total[1] = {0.f, 0.f, 0.f, 0.f};
    for (unsigned left = rows.lanes; left != 0;) {
      float4 given[4][2] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool there = left != 0;
        const int64_t row = shuffle(rows.row, there ? lowest_bit(left) : 0);
        const float4* from = reinterpret_cast<const float4*>(parts_.sums + row * plan_.padded_channels);
#pragma unroll
        for (int q = 0; q < 2; ++q)
          if (there && quad + q * kWarpSize < quads()) given[i][q] = from[quad + q * kWarpSize];
        left &= left - 1;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        total[0] = add(total[0], given[i][0]);
        total[1] = add(total[1], given[i][1]);
      }
    }
  }

  __device__ int quads() const { return plan_.padded_channels / 4; }
  __device__ static float4 add(const float4& a, const float4& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }
  __device__ static float4 scale(const float4& a, float factor) {
    return {a.x * factor, a.y * factor, a.z * factor, a.w * factor};
  }

  // Row of the sums of a region of the halo, in quads of channels.
  __device__ float4* sum_quads(int number) const {
    return reinterpret_cast<float4*>(memory_.sums() + number * plan_.stride);
  }

  // A warp's work on a region of the halo; each lane clears what it wrote.
  __device__ void clear_sums(int number) const {
    for (int quad = lane_index(); quad < quads(); quad += kWarpSize) sum_quads(number)[quad] = {0.f, 0.f, 0.f, 0.f};
  }

  // Puts four channels of a region of the halo into a table, as halves.
  __device__ void write_quad(T* table, int number, int quad, const float4& value) const {
    const uint2 high = {pack_pair<T>(value.x, value.y), pack_pair<T>(value.z, value.w)};
    const float2 left = unpack_pair<T>(high.x), right = unpack_pair<T>(high.y);
    uint2* to = reinterpret_cast<uint2*>(table + number * plan_.stride) + quad;
    *to = high;
    to[plan_.halo() * plan_.stride / 4] = {pack_pair<T>(value.x - left.x, value.y - left.y),
                                           pack_pair<T>(value.z - right.x, value.w - right.y)};
  }

  const Plan& plan_;
  const Group group_;
  const GroupMemory<T> memory_;
  const T* const features_;  // (B, C, H, W)
  const Parts& parts_;
  const int lane_, number_;
};

// Memory for the parts of `lanes` images; it lives in `memory`.
inline Parts new_parts(const Tensor& like, const Plan& plan, int lanes, std::array<Tensor, 2>& memory) {
  const int64_t rows = int64_t{2} * lanes * plan.groups() * plan.halo();
  memory[0] = torch::stable::new_empty(like, {rows, plan.padded_channels}, ScalarType::Float);
  memory[1] = torch::stable::new_empty(like, {rows}, ScalarType::Float);
  return {output<float>(memory[0]), output<float>(memory[1]), lanes};
}

}  // namespace tmt::cuda
