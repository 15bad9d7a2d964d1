// Mask logits that become bits at once: embeddings (N, E) times features (E, S), strip by strip of 256 keys.
//
// The keys of a strip that T lets pass are moved side by side, for every channel, into scratch memory of the second
// level cache. Against them, kGroupRows queries at a time, whole sums over E are carried in registers, and compared
// there. The bits are spread back to where their keys were. Included by attention/cpu/pack_mask_kernels.cpp alone.
#pragma once

#include "attention/cpu/args.h"
#include "attention/decisions.h"
#include "common/cpu/simd_bits.h"

namespace tmt::attention::cpu::TMT_SIMD {

using namespace tmt::cpu::TMT_SIMD;
namespace {

constexpr int kRows = kGroupRows;
// Vectors of keys beside those rows: kRows * kVectors sums fill the register file.
constexpr int kVectors = kVectorBytes == 64 ? 4 : 2;

// Lanes whose logit passes; a logit in float64 is rounded first, as pack_mask rounds it.
TMT_INLINE uint64_t passing_lanes(Vector<float> logits, float threshold, int rule) {
  return rule == kRuleUncertain ? lane_bits<float>(logits <= threshold) : lane_bits<float>(logits >= threshold);
}
TMT_INLINE uint64_t passing_lanes(Vector<double> logits, float threshold, int rule) {
  uint64_t bits = 0;
  for (int i = 0; i < kLanes<double>; ++i)
    bits |= static_cast<uint64_t>(mask_allows(static_cast<float>(logits[i]), threshold, rule)) << i;
  return bits;
}

// ---- embeddings -----------------------------------------------------------------------------------------------------

// Groups of kRows queries become (E, kRows), so that a step over E reads the next values; rows past N are 0.
template <typename T, typename A = Accumulate<T>>
void pack_row_groups(const PredictArgs& args, int64_t begin, int64_t end) {
  const int64_t groups = row_groups(args.queries), E = args.channels;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t b = item / groups, first = item % groups * kRows;
    A* to = static_cast<A*>(args.packed) + item * E * kRows;
    for (int r = 0; r < kRows; ++r) {
      const bool exists = first + r < args.queries;
      const T* from = static_cast<const T*>(args.embeddings) + (b * args.queries + (exists ? first + r : 0)) * E;
      for (int64_t e = 0; e < E; ++e) to[e * kRows + r] = exists ? load_one(from + e) : A{0};
    }
  }
}

// ---- features -------------------------------------------------------------------------------------------------------

// Which keys of a strip T keeps, and where they go.
template <typename A>
struct Strip {
  static constexpr int kSteps = kStripKeys / kLanes<A>;
  int64_t first, keys, kept;     // the first key, how many exist, how many are kept
  uint32_t lanes[kSteps];        // kept lanes of each vector of keys
  int32_t to[kSteps];            // and the place of the first of them
  int32_t word_to[kStripWords];  // place of the first kept key of each word
  BitMoves moves[kStripWords];   // from the kept keys of a word to its bits
};

template <typename A>
void plan_strip(const PredictArgs& args, int64_t b, int64_t strip, Strip<A>& plan) {
  constexpr int L = kLanes<A>;
  const int64_t left = args.keys - strip * kStripKeys;
  plan.first = strip * kStripKeys;
  plan.keys = left < kStripKeys ? left : kStripKeys;
  plan.kept = 0;
  for (int w = 0; w < kStripWords; ++w) {
    const int64_t word = strip * kStripWords + w;
    const uint64_t exist = valid_bits(word, args.keys);
    const uint64_t kept = args.transfer && exist ? args.transfer_bits[b * args.words + word] : exist;
    plan.moves[w] = moves_to(kept);
    plan.word_to[w] = static_cast<int32_t>(plan.kept);
    for (int j = 0; j < kWordKeys; j += L) {
      const uint32_t lanes = static_cast<uint32_t>(kept >> j) & ((1u << L) - 1);
      plan.lanes[(w * kWordKeys + j) / L] = lanes;
      plan.to[(w * kWordKeys + j) / L] = static_cast<int32_t>(plan.kept);
      plan.kept += __builtin_popcount(lanes);
    }
  }
}

// One channel of a strip: the kept ones of its values (S) side by side.
template <typename T, typename A = Accumulate<T>>
TMT_INLINE void gather_channel(const T* from, const Strip<A>& plan, A* to) {
  constexpr int L = kLanes<A>;
  int step = 0;
  for (; (step + 1) * L <= plan.keys; ++step)
    store(to + plan.to[step], compress(plan.lanes[step], load(from + step * L)));
  for (int64_t j = step * L, at = j < plan.keys ? plan.to[step] : 0; j < plan.keys; ++j)
    if ((plan.lanes[step] >> (j - step * L)) & 1) to[at++] = load_one(from + j);
}

// ---- products -------------------------------------------------------------------------------------------------------

// Sums over E of kRows queries times V vectors of kept keys, compared: ORs each row's bits into bits[row] from `at` on.
template <int V, typename A>
TMT_INLINE void predict_panel(const PredictArgs& args, const A* rows, const A* keys, int64_t at,
                              uint64_t (*bits)[kStripWords + 1]) {
  constexpr int L = kLanes<A>;
  Vector<A> sums[kRows][V] = {};
  for (int64_t e = 0; e < args.channels; ++e) {
    Vector<A> features[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) features[v] = load(keys + e * kStripKeys + at + v * L);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += features[v] * rows[e * kRows + r];
    }
  }
  const float threshold = args.mask_threshold;
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t j = at + v * L;
      bits[r][j / kWordKeys] |= passing_lanes(sums[r][v], threshold, args.rule) << (j % kWordKeys);
    }
  }
}

// The kept keys of a strip for one group of rows; bits from plan.kept on are of no meaning.
template <typename A>
void predict_group(const PredictArgs& args, const A* rows, const A* keys, int64_t kept,
                   uint64_t (*bits)[kStripWords + 1]) {
  constexpr int L = kLanes<A>;
  int64_t at = 0;
  for (; at + (kVectors - 1) * L < kept; at += kVectors * L) predict_panel<kVectors>(args, rows, keys, at, bits);
  for (; at + L < kept; at += 2 * L) predict_panel<2>(args, rows, keys, at, bits);
  for (; at < kept; at += L) predict_panel<1>(args, rows, keys, at, bits);
}

// 64 bits from bit `at` on.
TMT_INLINE uint64_t bits_from(const uint64_t* words, int64_t at) {
  const int64_t word = at / kWordKeys, shift = at % kWordKeys;
  return shift == 0 ? words[word] : words[word] >> shift | words[word + 1] << (kWordKeys - shift);
}

template <typename T, typename A = Accumulate<T>>
void predict_strip(const PredictArgs& args, int64_t b, int64_t strip, A* keys) {
  Strip<A> plan;
  plan_strip(args, b, strip, plan);
  const T* features = static_cast<const T*>(args.features) + b * args.channels * args.keys + plan.first;
  for (int64_t e = 0; e < args.channels; ++e) gather_channel(features + e * args.keys, plan, keys + e * kStripKeys);
  const int64_t groups = row_groups(args.queries);
  for (int64_t group = 0; group < groups; ++group) {
    uint64_t bits[kRows][kStripWords + 1] = {};
    const A* rows = static_cast<const A*>(args.packed) + (b * groups + group) * args.channels * kRows;
    predict_group(args, rows, keys, plan.kept, bits);
    for (int64_t r = 0; r < kRows && group * kRows + r < args.queries; ++r) {
      uint64_t* to = args.bits + (b * args.queries + group * kRows + r) * args.words + strip * kStripWords;
      for (int64_t w = 0; w * kWordKeys < plan.keys; ++w)
        to[w] = spread(plan.moves[w], bits_from(bits[r], plan.word_to[w]));
    }
  }
}

template <typename T, typename A = Accumulate<T>>
void predict(const PredictArgs& args, int64_t begin, int64_t end, void* scratch) {
  const int64_t each = strips(args.words);
  A* keys = static_cast<A*>(scratch);
  for (int64_t i = 0; i < predict_scratch(args.channels); ++i) keys[i] = 0;  // lanes that are not kept are summed, too
  for (int64_t item = begin; item < end; ++item) predict_strip<T>(args, item / each, item % each, keys);
}

}  // namespace
}  // namespace tmt::attention::cpu::TMT_SIMD
