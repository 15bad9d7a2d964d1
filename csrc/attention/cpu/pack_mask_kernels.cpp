// The kernels of pack_mask, row by row, and of pack_predicted_mask, compiled once per SIMD level: comparisons to bits,
// 64 keys to a word.
#include "attention/cpu/predicted_mask_strips.h"

namespace tmt::attention::cpu::TMT_SIMD {
namespace {

template <int Rule, typename T>
TMT_INLINE bool passes(const T* p, float threshold) {
  return mask_allows(static_cast<float>(load_one(p)), threshold, Rule);
}

// Bits of up to 64 consecutive values that pass.
template <int Rule, typename T>
TMT_INLINE uint64_t passing_bits(const T* p, int64_t count, float threshold) {
  uint64_t bits = 0;
  int64_t j = 0;
  if constexpr (sizeof(T) <= sizeof(float)) {
    constexpr int L = kLanes<float>;
    for (; j + L <= count; j += L) {
      const Vector<float> v = load(p + j);
      bits |= (Rule == kRuleUncertain ? lane_bits<float>(v <= threshold) : lane_bits<float>(v >= threshold)) << j;
    }
  }
  for (; j < count; ++j) bits |= static_cast<uint64_t>(passes<Rule>(p + j, threshold)) << j;
  return bits;
}

// One row of S values to its words.
template <int Rule, typename T>
void compare_row(const T* p, int64_t keys, float threshold, uint64_t* words) {
  for (int64_t j = 0; j < keys; j += kWordKeys)
    words[j / kWordKeys] = passing_bits<Rule>(p + j, keys - j < kWordKeys ? keys - j : kWordKeys, threshold);
}

template <int Rule>
void compare(Element element, const void* data, int64_t row, int64_t keys, float threshold, uint64_t* words) {
  const int64_t at = row * keys;
  switch (element) {
    case Element::float32: return compare_row<Rule>(static_cast<const float*>(data) + at, keys, threshold, words);
    case Element::float64: return compare_row<Rule>(static_cast<const double*>(data) + at, keys, threshold, words);
    case Element::bfloat16: return compare_row<Rule>(static_cast<const BFloat16*>(data) + at, keys, threshold, words);
    case Element::float16: return compare_row<Rule>(static_cast<const Half*>(data) + at, keys, threshold, words);
  }
}

void mask_row(const PackArgs& args, int64_t row, uint64_t* words) {
  if (args.mask == nullptr || args.rule == kRuleNone) {
    for (int64_t w = 0; w < args.words; ++w) words[w] = valid_bits(w, args.keys);
  } else if (args.rule == kRuleUncertain) {
    compare<kRuleUncertain>(args.element, args.mask, row, args.keys, args.mask_threshold, words);
  } else {
    compare<kRuleForeground>(args.element, args.mask, row, args.keys, args.mask_threshold, words);
  }
}

int64_t count_bits(const uint64_t* words, int64_t count) {
  int64_t total = 0;
  for (int64_t w = 0; w < count; ++w) total += __builtin_popcountll(words[w]);
  return total;
}

// A row that allows nothing attends wherever T allows (if asked, and if it does anywhere), else everywhere.
void fall_back(const MaskArgs& args, const uint64_t* transfer, uint64_t* words) {
  const bool by_transfer =
      args.fallback == kFallbackTransfer && transfer != nullptr && count_bits(transfer, args.words) > 0;
  for (int64_t w = 0; w < args.words; ++w) words[w] = by_transfer ? transfer[w] : valid_bits(w, args.keys);
}

// T's test for image b.
void pack_transfer_row(const MaskArgs& args, int64_t b) {
  compare<kRuleUncertain>(args.transfer_element, args.transfer, b, args.keys, args.transfer_threshold[b],
                          args.transfer_bits + b * args.words);
}

const uint64_t* transfer_of(const MaskArgs& args, int64_t row) {
  return args.transfer ? args.transfer_bits + row / args.queries * args.words : nullptr;
}

// Counts what row b * N + n allows, and lets it fall back where that is nothing.
void finish_row(const MaskArgs& args, int64_t row) {
  uint64_t* words = args.bits + row * args.words;
  args.allowed[row] = static_cast<int32_t>(count_bits(words, args.words));
  if (args.allowed[row] == 0) fall_back(args, transfer_of(args, row), words);
}

// Both tests and the fallback for row b * N + n.
void pack_row(const PackArgs& args, int64_t row) {
  uint64_t* words = args.bits + row * args.words;
  const uint64_t* transfer = transfer_of(args, row);
  mask_row(args, row, words);
  for (int64_t w = 0; transfer && w < args.words; ++w) words[w] &= transfer[w];
  finish_row(args, row);
}

}  // namespace

// ---- entry points ---------------------------------------------------------------------------------------------------

void pack_transfer(const MaskArgs& args, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) pack_transfer_row(args, b);
}
void pack_rows(const PackArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) pack_row(args, row);
}
void finish_rows(const MaskArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) finish_row(args, row);
}
void pack_embeddings(const PredictArgs& args, int64_t begin, int64_t end) {
  TMT_BY_ELEMENT(pack_row_groups, args, begin, end)
}
void predict_strips(const PredictArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_ELEMENT(predict, args, begin, end, scratch)
}

}  // namespace tmt::attention::cpu::TMT_SIMD
