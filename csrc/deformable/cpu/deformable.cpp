// tmt::deformable_attention and its backward on the CPU: arguments, memory and threads; the work is in
// deformable/cpu/kernels.cpp.
#include "common/cpu/host.h"
#include "common/tensor.h"
#include "deformable/checks.h"
#include "deformable/cpu/kernels.h"

namespace tmt::deformable::cpu {
namespace {

DeformableArgs arguments(const Sizes& sizes, const Tensor& value, const Shapes& shapes, const Tensor& locations,
                         const Tensor& weights) {
  DeformableArgs args{};
  args.element = element_of(value);
  args.batch = sizes.batch;
  args.positions = sizes.positions;
  args.heads = sizes.heads;
  args.dim = sizes.dim;
  args.queries = sizes.queries;
  args.levels = sizes.levels;
  args.points = sizes.points;
  args.splits = split_count(sizes.batch * sizes.heads, sizes.queries);
  args.shapes = shapes.data();
  args.value = value.const_data_ptr();
  args.value_image = value.stride(0);
  args.value_position = value.stride(1);
  args.value_head = value.stride(2);
  args.locations = locations.const_data_ptr();
  args.weights = weights.const_data_ptr();
  return args;
}

// Calls function(begin, end, scratch) for all items, in parallel.
template <typename Function>
void for_items(const DeformableArgs& args, const Function& function) {
  const auto bytes = static_cast<size_t>(TMT_SIMD_CALL(deformable_scratch_bytes, args));
  torch::stable::parallel_for(0, args.batch * args.heads * args.splits, 1, [&](int64_t begin, int64_t end) {
    const Scratch scratch(bytes);
    function(begin, end, scratch.get());
  });
}

// value (B, S, heads, D), locations (B, Q, heads, levels, points, 2), weights (B, Q, heads, levels, points) ->
// (B, Q, heads * D).
Tensor deformable_attention(const Tensor& value, const Shapes shapes, const Tensor& locations, const Tensor& weights) {
  const Sizes sizes = check_deformable(value, shapes, locations, weights);
  const Tensor v = with_dense_rows(value), x = dense(locations), w = dense(weights);
  const Tensor output = empty(value, value.scalar_type(), sizes.batch, sizes.queries, sizes.heads * sizes.dim);
  DeformableArgs args = arguments(sizes, v, shapes, x, w);
  args.output = output.mutable_data_ptr();
  for_items(args, [&](int64_t begin, int64_t end, void* scratch) {
    TMT_SIMD_CALL(deformable_forward, args, begin, end, scratch);
  });
  return output;
}

// The gradients of value, locations and weights from grad_output (B, Q, heads * D). The same bits every time.
std::tuple<Tensor, Tensor, Tensor> deformable_attention_backward(const Tensor& grad_output, const Tensor& value,
                                                                 const Shapes shapes, const Tensor& locations,
                                                                 const Tensor& weights, bool /*deterministic*/) {
  const Sizes sizes = check_deformable_backward(grad_output, value, shapes, locations, weights);
  const Tensor v = with_dense_rows(value), x = dense(locations), w = dense(weights), g = dense(grad_output);
  const Tensor grad_value = empty(value, value.scalar_type(), sizes.batch, sizes.positions, sizes.heads, sizes.dim);
  const Tensor grad_locations =
      empty(x, x.scalar_type(), sizes.batch, sizes.queries, sizes.heads, sizes.levels, sizes.points, int64_t{2});
  const Tensor grad_weights =
      empty(w, w.scalar_type(), sizes.batch, sizes.queries, sizes.heads, sizes.levels, sizes.points);
  DeformableArgs args = arguments(sizes, v, shapes, x, w);
  args.grad_output = g.const_data_ptr();
  args.grad_value = grad_value.mutable_data_ptr();
  args.grad_locations = grad_locations.mutable_data_ptr();
  args.grad_weights = grad_weights.mutable_data_ptr();
  const int64_t heads = sizes.batch * sizes.heads, slabs = args.splits == 1 ? 0 : heads * args.splits;
  const Scratch parts(static_cast<size_t>(slabs * TMT_SIMD_CALL(deformable_slab_bytes, args)));
  args.slabs = parts.get();
  for_items(args, [&](int64_t begin, int64_t end, void* scratch) {
    TMT_SIMD_CALL(deformable_backward, args, begin, end, scratch);
  });
  if (args.splits > 1)
    torch::stable::parallel_for(
        0, heads, 1, [&](int64_t begin, int64_t end) { TMT_SIMD_CALL(deformable_finish, args, begin, end); });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace tmt::deformable::cpu

STABLE_TORCH_LIBRARY_IMPL(tmt, CPU, m) {
  m.impl("deformable_attention", TORCH_BOX(&tmt::deformable::cpu::deformable_attention));
  m.impl("deformable_attention_backward", TORCH_BOX(&tmt::deformable::cpu::deformable_attention_backward));
}
