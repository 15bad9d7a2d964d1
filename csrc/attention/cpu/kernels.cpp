// The kernels of packed_attention, compiled once per SIMD level.
//
// An item is (image, head, split of the keys). It walks over its tiles of 64 keys; of each, keys and values are brought
// into the first-level cache once, and every query row that attends to some key of the tile is processed there, kRows
// at a time. Rows with no bit in the tile cost nothing; tiles with no such row are not even loaded.
// Scores are kept in units of log2, so that exp2 serves: score2 = q.k * log2(e) / sqrt(D).
#include "attention/cpu/backward.h"
#include "attention/cpu/forward.h"

namespace tmt::attention::cpu::TMT_SIMD {

void attention_forward(const AttentionArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_ELEMENT(forward, args, begin, end, scratch)
}
void attention_forward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  TMT_BY_ELEMENT(forward_finish, args, begin, end)
}
void attention_backward(const AttentionArgs& args, int64_t begin, int64_t end, void* scratch) {
  TMT_BY_ELEMENT(backward, args, begin, end, scratch)
}
void attention_backward_finish(const AttentionArgs& args, int64_t begin, int64_t end) {
  TMT_BY_ELEMENT(backward_finish, args, begin, end)
}

}  // namespace tmt::attention::cpu::TMT_SIMD
