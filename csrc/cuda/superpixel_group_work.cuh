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
    float4* to = reinterpret_cast<float4*>(parts_.sums + part(set, 0) * plan_.padded_channels);
    for (int i = threadIdx.x; i < plan_.halo() * quads; i += kGroupThreads)
      to[i] = reinterpret_cast<const float4*>(memory_.sums() + i / quads * plan_.stride)[i % quads];
  }

 protected:
  // Row of the parts that are this group's, or another one's, for a region of its halo.
  __device__ int64_t part(int set, int region) const { return part(set, number_, region); }
  __device__ int64_t part(int set, int group, int region) const { return parts_.row(plan_, set, lane_, group, region); }

  // A warp's work on a region of the halo.
  __device__ void clear_sums(int number) const {
    warp_barrier();
    for (int channel = lane_index(); channel < plan_.stride; channel += kWarpSize)
      memory_.sums()[number * plan_.stride + channel] = 0.f;
  }

  // Puts `factor` times a vector of padded_channels floats into a table, as halves. A warp's work.
  __device__ void write_row(T* table, const float* values, int number, float factor) const {
    T* high = table + number * plan_.stride;
    T* low = high + plan_.halo() * plan_.stride;
    for (int channel = lane_index(); channel < plan_.padded_channels; channel += kWarpSize) {
      const Halves<T> halves(values[channel] * factor);
      high[channel] = halves.high;
      low[channel] = halves.low;
    }
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
