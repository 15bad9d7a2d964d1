// Every operator schema, and the Python module tmt_ext._C. Kernels register themselves, in csrc/*/cpu and csrc/*/cuda.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/stable/library.h>

#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "common/cpu/dispatch.h"

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

namespace {

std::vector<std::string> words(const std::string& list) {
  std::istringstream stream(list);
  return {std::istream_iterator<std::string>(stream), {}};
}

// What this build is made of; empty strings and lists where CUDA was not built.
pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = TMT_VERSION;
  info["revision"] = TMT_REVISION;
  info["compiler"] = tmt::compiler_name();
  info["cuda_version"] = TMT_CUDA_VERSION;
  info["cuda_architectures"] = words(TMT_ARCHITECTURES);
  info["simd_levels"] = words(TMT_SIMD_LEVELS);
  info["simd_active"] = tmt::cpu::simd_name(tmt::cpu::simd_level());
  info["torch_abi"] = "2.10";
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Loads the operators of torch.ops.tmt for the CPU.";
  m.def("build_info", &build_info, "What this build is made of.");
}
