// How groups share the regions of their halos: each writes what its pixels give to every region of its halo to global
// memory, tells its neighbours, and reads what they wrote. Sums have a fixed order.
#pragma once

#include "superpixel/cuda/group.cuh"

namespace tmt::superpixel::cuda {

// What the groups give their halos' regions; `set` alternates, so that one step's are read while the next one's are
// written. `lane` is an image, or the team of blocks that works on one.
struct Parts {
  float* sums;    // (2, lanes, groups, halo, padded_channels)
  float* masses;  // (2, lanes, groups, halo); forward only
  int lanes;

  // First row of a lane's. As many rows as 32 bits count would not fit into memory.
  __device__ int first(const Plan& plan, int set, int lane) const {
    return (set * lanes + lane) * plan.groups() * plan.halo();
  }
  // Row of a group's region.
  template <typename T>
  __device__ int row(const Group<T>& group, int set, int region) const {
    return first(group.plan, set, group.lane) + group.number * group.plan.halo() + region;
  }
};

// Memory for the parts of `lanes` images; it lives in `memory`.
inline Parts new_parts(const Tensor& like, const Plan& plan, int lanes, std::array<Tensor, 2>& memory) {
  const int64_t rows = int64_t{2} * lanes * plan.groups() * plan.halo();
  memory[0] = torch::stable::new_empty(like, {rows, plan.padded_channels}, ScalarType::Float);
  memory[1] = torch::stable::new_empty(like, {rows}, ScalarType::Float);
  return {output<float>(memory[0]), output<float>(memory[1]), lanes};
}

// ---- four channels at a time ----------------------------------------------------------------------------------------

__device__ __forceinline__ float4 add(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
__device__ __forceinline__ float4 scale(const float4& a, float factor) {
  return {a.x * factor, a.y * factor, a.z * factor, a.w * factor};
}
__device__ __forceinline__ float dot(const float4& a, const float4& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

// Squared norm of a vector, plain and scaled, as its parts in a warp's lanes add up.
struct Squares {
  float plain = 0.f, scaled = 0.f;

  __device__ void add(const float4& value) {
    for (const float v : {value.x, value.y, value.z, value.w}) {
      plain += v * v;
      scaled += scaled_square(v);
    }
  }
  // Of the whole vector. Every lane must call.
  __device__ float norm() const { return norm_of(warp_sum(plain), warp_sum(scaled)); }
};

// The sums of a region of the halo.
template <typename T>
__device__ __forceinline__ float4* sum_quads(const Group<T>& group, const RegionInfo& region) {
  return reinterpret_cast<float4*>(group.sums() + group.plan.sums.at(region.y, region.x));
}

// A warp's work; each lane clears the quads that it alone writes.
template <typename T>
__device__ __forceinline__ void clear_sums(const Group<T>& group, const RegionInfo& region) {
  for (int quad = lane_index(); quad < group.plan.padded_channels / 4; quad += kWarpSize)
    sum_quads(group, region)[quad] = {0.f, 0.f, 0.f, 0.f};
}

// Puts four channels of a region of the halo into a table, as halves.
template <typename T>
__device__ __forceinline__ void write_quad(T* table, const Plan& plan, const RegionInfo& region, int quad,
                                           const float4& value) {
  const uint2 high = {pack_pair<T>(value.x, value.y), pack_pair<T>(value.z, value.w)};
  const float2 left = unpack_pair<T>(high.x), right = unpack_pair<T>(high.y);
  uint2* to = reinterpret_cast<uint2*>(table + plan.halves.at(region.y, region.x)) + quad;
  *to = high;
  to[plan.halves.size / 4] = {pack_pair<T>(value.x - left.x, value.y - left.y),
                              pack_pair<T>(value.z - right.x, value.w - right.y)};
}

// ---- writing and reading parts --------------------------------------------------------------------------------------

// Writes the halo's sums to the parts in `set`. A warp per region.
template <typename T>
__device__ void publish_sums(const Group<T>& group, const Parts& parts, int set) {
  const int quads = group.plan.padded_channels / 4;
  for (int number = warp_index(); number < group.plan.halo(); number += kGroupWarps) {
    const float4* from = sum_quads(group, group.region(number));
    float4* to = reinterpret_cast<float4*>(parts.sums) + int64_t{parts.row(group, set, number)} * quads;
    for (int quad = lane_index(); quad < quads; quad += kWarpSize) to[quad] = from[quad];
  }
}

// The rows of the parts that a region's sum consists of: each of `lanes` holds one.
struct PartRows {
  int row;
  unsigned lanes;
};

// Every lane must call.
template <typename T>
__device__ __forceinline__ PartRows part_rows(const Group<T>& group, const Parts& parts, const RegionInfo& region,
                                              int set) {
  const int row = lane_index() < kNeighbours ? region.parts[lane_index()] : -1;
  return {parts.first(group.plan, set, group.lane) + row, ballot(row >= 0)};
}

// The sum of a region's parts, always in the same order: channels 4 q .. 4 q + 3 for q = quad and quad + 32. All loads
// of four parts are on their way before the first is waited for. Every lane must call.
__device__ inline void sum_parts(float4 (&total)[2], const Parts& parts, const PartRows& rows, int quads, int quad) {
  total[0] = total[1] = {0.f, 0.f, 0.f, 0.f};
  for (unsigned left = rows.lanes; left != 0;) {
    float4 given[4][2] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool there = left != 0;
      const int64_t row = shuffle(rows.row, there ? lowest_bit(left) : 0);
      const float4* from = reinterpret_cast<const float4*>(parts.sums) + row * quads;
#pragma unroll
      for (int q = 0; q < 2; ++q)
        if (there && quad + q * kWarpSize < quads) given[i][q] = from[quad + q * kWarpSize];
      left &= left - 1;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      total[0] = add(total[0], given[i][0]);
      total[1] = add(total[1], given[i][1]);
    }
  }
}

// ---- steps of neighbours --------------------------------------------------------------------------------------------

// The groups that share a region of the halo with this one are those with a cell at most two cells away. The flag of
// the one that this thread watches, null for most threads; `flags` (lanes, groups).
template <typename T>
__device__ const unsigned* watched_flag(const Group<T>& group, const unsigned* flags) {
  constexpr int kAcross = 5;
  const Plan& plan = group.plan;
  if (threadIdx.x >= kAcross * kAcross) return nullptr;
  const int down = static_cast<int>(threadIdx.x) / kAcross - 2, across = static_cast<int>(threadIdx.x) % kAcross - 2;
  const int row = group.number / plan.columns_of_groups + down, column = group.number % plan.columns_of_groups + across;
  const bool near = (abs(down) < 2 || plan.group_rows == 1) && (abs(across) < 2 || plan.group_columns == 1);
  const bool exists = row >= 0 && row < plan.rows_of_groups && column >= 0 && column < plan.columns_of_groups;
  return near && exists ? flags + group.lane * plan.groups() + row * plan.columns_of_groups + column : nullptr;
}

// So often does a thread look at a flag before it gives up. Neighbours are at most a step behind, some ten
// microseconds, and a look takes at least a way to the L2 cache and back, some hundred nanoseconds: this is more than
// five seconds in which nothing happened, and none of the waiting that a debugger or a sanitizer causes counts, for
// then this thread looks less often, too.
constexpr unsigned kMostLooks = 1u << 26;

// Waits until the neighbours have done `steps` steps, too; ends the launch with an error where they never do. Every
// thread must call.
__device__ __forceinline__ void wait_for_neighbours(const unsigned* watched, unsigned steps) {
  if (watched != nullptr)
    for (unsigned looks = 0; load_acquire(watched) < steps; ++looks)
      if (looks == kMostLooks) trap();
  block_barrier();
}

// Tells the neighbours that this block has done one more step: what it wrote before is there. Every thread must call.
template <typename T>
__device__ __forceinline__ void tell_neighbours(const Group<T>& group, unsigned* flags) {
  block_barrier();
  if (threadIdx.x == 0) add_release(flags + group.lane * group.plan.groups() + group.number, 1u);
}

}  // namespace tmt::superpixel::cuda
