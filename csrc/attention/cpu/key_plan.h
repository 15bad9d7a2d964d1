// Which keys of an image the attention kernels visit, and in what order.
//
// Keys that fail T are attended by no row, so they are dropped for all queries and heads at once. A row that fell back
// to every key would undo that; such full rows are kept apart: first come the keys that other rows attend, then, for
// the full rows alone, the rest. Where rows are sparse, keys of the same query are put side by side besides. Bits are
// brought into that order once, for all heads.
#pragma once

#include <vector>

#include "attention/cpu/args.h"
#include "attention/decisions.h"

namespace tmt::attention::cpu {

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
    const bool sparse = attended_ < kSparse * static_cast<double>(kept_count_) * static_cast<double>(queries_);
    if (sparse)
      segment_by_first_query();
    else
      segment_in_place(kept);
    order_keys(kept);
    order_bits();
  }

  KeyPlan view() const {
    if (bits_ == nullptr) return {keys_, nullptr, nullptr};
    return {visited(), order_.data(), ordered_.data()};
  }

 private:
  // Rows that attend to less than this part of the kept keys on average gain from a better order of the keys.
  static constexpr double kSparse = 0.25;

  // Keys of one word that follow each other in the order.
  struct Segment {
    int64_t word;
    uint64_t mask;
    BitGatherer gatherer;
  };

  int64_t words() const { return mask_words(keys_); }
  const uint64_t* row(int64_t n) const { return bits_ + n * words(); }

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
      full_[n] = is_full(row(n));
      any_full_ = any_full_ || full_[n];
      if (full_[n]) continue;
      for (int64_t w = 0; w < words(); ++w) {
        kept[w] |= row(n)[w];
        attended_ += __builtin_popcountll(row(n)[w]);
      }
    }
    for (const uint64_t word : kept) kept_count_ += __builtin_popcountll(word);
    return kept;
  }

  void add_segment(int64_t word, uint64_t mask) {
    if (mask != 0) segments_.push_back({word, mask, BitGatherer(mask)});
  }

  void segment_in_place(const std::vector<uint64_t>& kept) {
    segments_.reserve(words());
    for (int64_t w = 0; w < words(); ++w) add_segment(w, kept[w]);
  }

  // Keys of the same query side by side: a mask of connected regions then fills few tiles and leaves the others empty.
  void segment_by_first_query() {
    std::vector<uint64_t> seen(words());
    for (int64_t n = 0; n < queries_; ++n) {
      for (int64_t w = 0; !full_[n] && w < words(); ++w) {
        add_segment(w, row(n)[w] & ~seen[w]);
        seen[w] |= row(n)[w];
      }
    }
  }

  void append_keys(int64_t word, uint64_t bits) {
    for (; bits != 0; bits &= bits - 1)
      order_.push_back(static_cast<int32_t>(word * kWordKeys + __builtin_ctzll(bits)));
  }

  int64_t visited() const { return any_full_ ? keys_ : kept_count_; }

  void order_keys(const std::vector<uint64_t>& kept) {
    order_.reserve(keys_);
    for (const Segment& segment : segments_) append_keys(segment.word, segment.mask);
    for (int64_t w = 0; w < words(); ++w) append_keys(w, ~kept[w] & valid_bits(w, keys_));
  }

  void order_bits() {
    const int64_t count = visited(), tiles = mask_words(count);
    ordered_.assign(queries_ * tiles, 0);
    for (int64_t n = 0; n < queries_; ++n) {
      if (full_[n])
        for (int64_t t = 0; t < tiles; ++t) ordered_[t * queries_ + n] = valid_bits(t, count);
      else
        gather_row(row(n), ordered_.data() + n);
    }
  }

  // One row's words to the tiles, whose words of this row are `queries_` apart.
  void gather_row(const uint64_t* from, uint64_t* to) const {
    int64_t at = 0;
    for (const Segment& segment : segments_) {
      if ((from[segment.word] & segment.mask) != 0) {
        const uint64_t word = segment.gatherer.gather(from[segment.word]);
        const int shift = static_cast<int>(at % kWordKeys);
        const int64_t tile = at / kWordKeys;
        to[tile * queries_] |= word << shift;
        if (shift != 0 && (word >> (kWordKeys - shift)) != 0) to[(tile + 1) * queries_] |= word >> (kWordKeys - shift);
      }
      at += segment.gatherer.count();
    }
  }

  const uint64_t* bits_;
  int64_t queries_, keys_, kept_count_ = 0, attended_ = 0;
  bool any_full_ = false;
  std::vector<char> full_;  // (N)
  std::vector<Segment> segments_;
  std::vector<int32_t> order_;     // (S) keys, in the order of the tiles; last, those that are not visited
  std::vector<uint64_t> ordered_;  // (tiles, N)
};

}  // namespace tmt::attention::cpu
