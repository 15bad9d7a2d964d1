// The Python module tmt_ext._C: build_info() alone. It keeps to Python's limited API, so that one build serves every
// Python from 3.10 on.
#include <Python.h>

#include <exception>

#include "common/cpu/dispatch.h"

#ifndef Py_LIMITED_API
#error "tmt_ext._C must be compiled with Py_LIMITED_API: CMakeLists.txt sets it"
#endif

namespace {

// The words of a text as a list of str; null with Python's error set.
PyObject* words(const char* text) {
  PyObject* whole = PyUnicode_FromString(text);
  if (whole == nullptr) return nullptr;
  PyObject* list = PyUnicode_Split(whole, nullptr, -1);
  Py_DECREF(whole);
  return list;
}

// What this build is made of; empty strings and lists where CUDA was not built.
PyObject* describe() {
  const char* active = tmt::cpu::simd_name(tmt::cpu::simd_level());
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:N,s:N,s:s,s:s}", "version", TMT_VERSION, "revision", TMT_REVISION,
                       "compiler", tmt::compiler_name(), "cuda_version", TMT_CUDA_VERSION, "cuda_architectures",
                       words(TMT_ARCHITECTURES), "simd_levels", words(TMT_SIMD_LEVELS), "simd_active", active,
                       "torch_abi", "2.10");
}

PyObject* build_info(PyObject*, PyObject*) {
  try {
    return describe();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What this build is made of."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_C",
    "Loads the operators of torch.ops.tmt for the CPU.",
    0,
    methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
