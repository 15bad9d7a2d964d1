// packed_attention on the CPU, forward and backward: host side and registration.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "attention/checks.h"
#include "attention/cpu/key_plan.h"
#include "common/cpu/host.h"

namespace tmt::attention::cpu {
namespace {

using torch::stable::parallel_for;

// Bits and the plans made from them, alive as long as the kernels run.
class Plans {
 public:
  Plans(const std::optional<Tensor>& bits, const AttentionShape& s) {
    if (bits) bits_ = dense(*bits);
    const auto* words = bits ? reinterpret_cast<const uint64_t*>(bits_->const_data_ptr<int64_t>()) : nullptr;
    const int64_t image = s.queries * mask_words(s.keys);
    plans_.resize(s.batch);
    views_.resize(s.batch);
    const int64_t grain = 1 + (1 << 12) / (image + 1);  // small plans are made sooner than a thread is woken
    parallel_for(0, s.batch, grain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        plans_[b].emplace(words ? words + b * image : nullptr, s.queries, s.keys);
        views_[b] = plans_[b]->view();
      }
    });
  }
  const KeyPlan* views() const { return views_.data(); }

 private:
  std::optional<Tensor> bits_;
  std::vector<std::optional<ImagePlan>> plans_;
  std::vector<KeyPlan> views_;
};

size_t accumulate_bytes(const AttentionArgs& args) {
  return args.element == Element::float64 ? sizeof(double) : sizeof(float);
}

AttentionArgs attention_args(const AttentionShape& s, const Tensor& query, const Tensor& key, const Tensor& value,
                             const Plans& plans) {
  AttentionArgs args{};
  args.element = element_of(query);
  args.batch = s.batch;
  args.heads = s.heads;
  args.queries = s.queries;
  args.keys = s.keys;
  args.dim = s.dim;
  args.padded = (s.dim + 15) / 16 * 16;
  args.splits = split_count(s.batch * s.heads, s.keys);
  args.query = heads_to_read<void>(query);
  args.key = heads_to_read<void>(key);
  args.value = heads_to_read<void>(value);
  args.plans = plans.views();
  return args;
}

void run_forward(const AttentionArgs& args) {
  const int64_t heads = args.batch * args.heads;
  const size_t bytes = accumulate_bytes(args) * forward_scratch(args.padded);
  parallel_for(0, heads * args.splits, 1, [&](int64_t begin, int64_t end) {
    const Scratch scratch(bytes);
    TMT_SIMD_CALL(attention_forward, args, begin, end, scratch.get());
  });
  if (args.splits == 1) return;
  parallel_for(0, heads, 1,
               [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(attention_forward_finish, args, begin, end); });
}

// query (B, heads, N, D), key, value (B, heads, S, D), bits (B, N, ceil(S / 64)) -> output, lse (B, heads, N) in powers
// of 2, plan (B, 0): the CPU's plan lives in the host's memory, and the backward makes it again.
std::tuple<Tensor, Tensor, Tensor> packed_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                                                    const std::optional<Tensor>& bits) {
  const AttentionShape s = check_attention(query, key, value, bits);
  const Tensor q = with_dense_rows(query), k = with_dense_rows(key), v = with_dense_rows(value);
  const Tensor output = empty_in_order_of(query);
  const Tensor lse = empty(query, accumulate_dtype(query), s.batch, s.heads, s.queries);
  const Plans plans(bits, s);
  AttentionArgs args = attention_args(s, q, k, v, plans);
  const int64_t parts = args.splits == 1 ? 0 : s.batch * s.heads * args.splits * s.queries;
  const Scratch partial(accumulate_bytes(args) * parts * part_size(args));
  args.partial = partial.get();
  args.output = heads_to_write<void>(output);
  args.lse = lse.mutable_data_ptr();
  run_forward(args);
  return {output, lse, empty(query, ScalarType::Long, s.batch, int64_t{0})};
}

void run_backward(const AttentionArgs& args) {
  const int64_t heads = args.batch * args.heads;
  const size_t bytes = accumulate_bytes(args) * backward_scratch(args.padded, args.queries);
  parallel_for(0, heads * args.splits, 1, [&](int64_t begin, int64_t end) {
    const Scratch scratch(bytes);
    TMT_SIMD_CALL(attention_backward, args, begin, end, scratch.get());
  });
  parallel_for(0, heads, 1,
               [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(attention_backward_finish, args, begin, end); });
}

// The gradients of query, key and value, from grad_output (B, heads, N, D) and what the forward returned.
std::tuple<Tensor, Tensor, Tensor> packed_attention_backward(const Tensor& grad_output, const Tensor& query,
                                                             const Tensor& key, const Tensor& value,
                                                             const Tensor& output, const Tensor& lse,
                                                             const Tensor& plan, const std::optional<Tensor>& bits) {
  const AttentionShape s = check_attention_backward(grad_output, query, key, value, output, lse, plan, bits);
  const Tensor q = with_dense_rows(query), k = with_dense_rows(key), v = with_dense_rows(value),
               g = with_dense_rows(grad_output), o = with_dense_rows(output), l = dense(lse);
  const Tensor grad_query = empty_in_order_of(query), grad_key = empty_in_order_of(key),
               grad_value = empty_in_order_of(value);
  const Plans plans(bits, s);
  AttentionArgs args = attention_args(s, q, k, v, plans);
  const Scratch partial(accumulate_bytes(args) * s.batch * s.heads * args.splits * s.queries * args.padded);
  args.partial = partial.get();
  args.output = heads_to_write<void>(o);
  args.lse = l.mutable_data_ptr();
  args.grad_output = heads_to_read<void>(g);
  args.grad_query = heads_to_write<void>(grad_query);
  args.grad_key = heads_to_write<void>(grad_key);
  args.grad_value = heads_to_write<void>(grad_value);
  run_backward(args);
  return {grad_query, grad_key, grad_value};
}

}  // namespace
}  // namespace tmt::attention::cpu

STABLE_TORCH_LIBRARY_IMPL(tmt, CPU, m) {
  m.impl("packed_attention", TORCH_BOX(&tmt::attention::cpu::packed_attention));
  m.impl("packed_attention_backward", TORCH_BOX(&tmt::attention::cpu::packed_attention_backward));
}
