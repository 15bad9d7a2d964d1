// Which keys of an image the attention kernels visit, and in what order.
//
// Keys that fail T are attended by no row, so they are dropped for all queries and heads at once. A row that fell back
// to every key would undo that; such full rows are kept apart: first come the keys that other rows attend, then, for
// the full rows alone, the rest. Bits are brought into that order once, for all heads.
#pragma once

#include <vector>

#include "masked_attention_args.h"
#include "../masked_attention_math.h"

namespace tmt::cpu {

// Moves the set bits of a chosen mask together, to the low end of a word.
class BitGatherer {
 public:
  // A bit with c unset bits of the mask below it moves right by c: in six rounds, by the powers of two that c has.
  explicit BitGatherer(uint64_t mask) : mask_(mask), count_(__builtin_popcountll(mask)) {
    for (uint64_t left = mask; left != 0; left &= left - 1) {
      const int at = __builtin_ctzll(left);
      const int moves = __builtin_popcountll(~mask & ((uint64_t{1} << at) - 1));
      for (int round = 0; round < 6; ++round) {
        const int done = moves & ((1 << round) - 1);
        if ((moves >> round) & 1) movers_[round] |= uint64_t{1} << (at - done);
      }
    }
  }

  int count() const { return count_; }

  uint64_t gather(uint64_t word) const {
    word &= mask_;
    for (int round = 0; round < 6; ++round) {
      const uint64_t moving = word & movers_[round];
      word = (word ^ moving) | (moving >> (1 << round));
    }
    return word;
  }

 private:
  uint64_t mask_;
  int count_;
  uint64_t movers_[6] = {};
};

// The plan of one image, made from its bits (N, words); owns what KeyPlan points to.
class ImagePlan {
 public:
  ImagePlan(const uint64_t* bits, int64_t queries, int64_t keys) : bits_(bits), queries_(queries), keys_(keys) {
    if (bits == nullptr) return;
    const std::vector<uint64_t> kept = find_kept();
    if (kept_count_ == keys) return;
    order_keys(kept);
    order_bits(kept);
  }

  KeyPlan view() const {
    if (bits_ == nullptr || kept_count_ == keys_) return {keys_, nullptr, bits_};
    return {static_cast<int64_t>(order_.size()), order_.data(), ordered_.data()};
  }

 private:
  int64_t words() const { return mask_words(keys_); }

  bool is_full(const uint64_t* row) const {
    for (int64_t w = 0; w < words(); ++w)
      if (row[w] != valid_bits(w, keys_)) return false;
    return keys_ > 0;
  }

  // The keys that some row attends which is not full.
  std::vector<uint64_t> find_kept() {
    std::vector<uint64_t> kept(words());
    full_.resize(queries_);
    for (int64_t n = 0; n < queries_; ++n) {
      const uint64_t* row = bits_ + n * words();
      full_[n] = is_full(row);
      any_full_ = any_full_ || full_[n];
      for (int64_t w = 0; !full_[n] && w < words(); ++w) kept[w] |= row[w];
    }
    for (const uint64_t word : kept) kept_count_ += __builtin_popcountll(word);
    return kept;
  }

  void append_keys(int64_t word, uint64_t bits) {
    for (; bits != 0; bits &= bits - 1) order_.push_back(static_cast<int32_t>(word * kWordKeys + __builtin_ctzll(bits)));
  }

  void order_keys(const std::vector<uint64_t>& kept) {
    order_.reserve(any_full_ ? keys_ : kept_count_);
    for (int64_t w = 0; w < words(); ++w) append_keys(w, kept[w]);
    for (int64_t w = 0; any_full_ && w < words(); ++w) append_keys(w, ~kept[w] & valid_bits(w, keys_));
  }

  void order_bits(const std::vector<uint64_t>& kept) {
    const int64_t tiles = mask_words(static_cast<int64_t>(order_.size()));
    const std::vector<BitGatherer> gatherers(kept.begin(), kept.end());
    ordered_.assign(queries_ * tiles, 0);
    for (int64_t n = 0; n < queries_; ++n) {
      uint64_t* row = ordered_.data() + n * tiles;
      if (full_[n])
        for (int64_t t = 0; t < tiles; ++t) row[t] = valid_bits(t, keys_);
      else
        gather_row(gatherers, bits_ + n * words(), row);
    }
  }

  void gather_row(const std::vector<BitGatherer>& gatherers, const uint64_t* from, uint64_t* to) const {
    int64_t at = 0;
    for (int64_t w = 0; w < words(); ++w) {
      const uint64_t word = gatherers[w].gather(from[w]);
      const int shift = static_cast<int>(at % kWordKeys);
      if (word == 0) {
        at += gatherers[w].count();
        continue;
      }
      to[at / kWordKeys] |= word << shift;
      if (shift != 0 && (word >> (kWordKeys - shift)) != 0) to[at / kWordKeys + 1] |= word >> (kWordKeys - shift);
      at += gatherers[w].count();
    }
  }

  const uint64_t* bits_;
  int64_t queries_, keys_, kept_count_ = 0;
  bool any_full_ = false;
  std::vector<char> full_;         // (N)
  std::vector<int32_t> order_;     // keys, in the order of the tiles
  std::vector<uint64_t> ordered_;  // (N, tiles)
};

}  // namespace tmt::cpu
