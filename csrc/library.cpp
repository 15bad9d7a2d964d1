// Every operator schema. Kernels register themselves, in csrc/*/cpu and csrc/*/cuda; the Python module: module.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(tmt, m) {
  m.def(
      "superpixel(Tensor features, int cell, int iterations, float kappa, bool keep_history=True) -> "
      "(Tensor region_features, Tensor assignment, Tensor labels, Tensor history, Tensor masses)");
  m.def(
      "superpixel_backward(Tensor? grad_region_features, Tensor? grad_assignment, Tensor features, Tensor history, "
      "Tensor masses, int cell, int iterations, float kappa) -> Tensor");
  m.def(
      "pack_mask(Tensor? mask_logits, Tensor? transferability, Tensor? transfer_threshold, "
      "float mask_logit_threshold, int rule, int fallback, SymInt queries) -> (Tensor bits, Tensor allowed)");
  m.def(
      "pack_predicted_mask(Tensor mask_embeddings, Tensor mask_features, Tensor? transferability, "
      "Tensor? transfer_threshold, float mask_logit_threshold, int rule, int fallback) -> "
      "(Tensor bits, Tensor allowed)");
  m.def(
      "packed_attention(Tensor query, Tensor key, Tensor value, Tensor? bits) -> "
      "(Tensor output, Tensor lse, Tensor plan)");
  m.def(
      "packed_attention_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor output, "
      "Tensor lse, Tensor plan, Tensor? bits) -> (Tensor, Tensor, Tensor)");
  m.def("deformable_attention(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights) -> Tensor");
  m.def(
      "deformable_attention_backward(Tensor grad_output, Tensor value, SymInt[] shapes, Tensor locations, "
      "Tensor weights, bool deterministic) -> (Tensor, Tensor, Tensor)");
}
