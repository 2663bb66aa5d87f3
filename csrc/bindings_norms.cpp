// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "bindings.h"
#include "isa.h"
#include "norms.h"

namespace nagfast {
namespace {

using OptionalArray = std::optional<py::array>;

const float* require_floats(const char* name, const py::array& array, std::initializer_list<int64_t> shape) {
  require_dtype<float>(name, array, "float32");
  require_shape(name, array, shape);
  require_layout(name, array, static_cast<py::ssize_t>(shape.size()), static_cast<py::ssize_t>(shape.size()));
  return static_cast<const float*>(array.data());
}

// Returns whether it is bfloat16.
bool require_scalars(const char* name, const py::array& array) {
  const bool bfloat16 = holds<uint16_t>(array);
  if (!bfloat16) require_dtype<float>(name, array, "float32, or uint16 holding bfloat16");
  return bfloat16;
}

int64_t row_stride_of(const py::array& array) { return array.shape(0) > 1 ? stride_of(array, 0) : 0; }

void require_rows(const char* name, const py::array& array, const py::array& like) {
  if (!array.dtype().equal(like.dtype())) refuse(name, "the dtype of x", array, "convert it");
  require_shape(name, array, {like.shape(0), like.shape(1)});
  require_layout(name, array, 2, 1);
  require_writeable(name, array);
  if (array.shape(0) > 1 && stride_of(array, 0) < array.shape(1)) {
    refuse(name, "rows that do not overlap", array, "use a copy of it");
  }
}

template <typename Scalar>
void run_add_rms_norm(const py::array& x, const OptionalArray& residual, const float* weight, float eps,
                      const py::array& out, int threads, Isa isa) {
  AddNormBatch<Scalar> batch{};
  batch.x = static_cast<const Scalar*>(x.data());
  batch.x_stride = row_stride_of(x);
  batch.residual = residual ? static_cast<Scalar*>(const_cast<void*>(residual->data())) : nullptr;
  batch.residual_stride = residual ? row_stride_of(*residual) : 0;
  batch.out = static_cast<Scalar*>(const_cast<void*>(out.data()));
  batch.out_stride = row_stride_of(out);
  batch.tokens = x.shape(0);
  batch.columns = x.shape(1);
  batch.weight = weight;
  batch.eps = eps;
  const py::gil_scoped_release release;
  add_rms_norm(batch, threads, isa);
}

void bind_add_rms_norm(const py::array& x, const OptionalArray& residual, const py::array& weight, float eps,
                       const py::array& out, int64_t threads, const std::string& isa) {
  const bool bfloat16 = require_scalars("x", x);
  require_layout("x", x, 2, 1);
  if (x.shape(1) == 0) refuse("x", "at least one column", x, "there is nothing to norm");
  if (residual) require_rows("residual", *residual, x);
  require_rows("out", out, x);
  const float* scale = require_floats("weight", weight, {x.shape(1)});
  const auto run = bfloat16 ? &run_add_rms_norm<uint16_t> : &run_add_rms_norm<float>;
  run(x, residual, scale, eps, out, require_threads(threads), resolve_isa(isa));
}

template <typename Scalar>
void run_norm_rotary(const py::array& x, const float* weight, float eps, const float* cos, const float* sin,
                     int threads, Isa isa) {
  RotaryBatch<Scalar> batch{};
  batch.x = static_cast<Scalar*>(const_cast<void*>(x.data()));
  batch.row_stride = row_stride_of(x);
  batch.tokens = x.shape(0);
  batch.heads = x.shape(1);
  batch.dim = x.shape(2);
  batch.weight = weight;
  batch.eps = eps;
  batch.cos = cos;
  batch.sin = sin;
  const py::gil_scoped_release release;
  norm_rotary(batch, threads, isa);
}

void bind_norm_rotary(const py::array& x, const OptionalArray& weight, float eps, const OptionalArray& cos,
                      const OptionalArray& sin, int64_t threads, const std::string& isa) {
  const bool bfloat16 = require_scalars("x", x);
  require_layout("x", x, 3, 2);
  require_writeable("x", x);
  const int64_t tokens = x.shape(0);
  const int64_t dim = x.shape(2);
  if (dim == 0) refuse("x", "at least one element to a head", x, "there is nothing to norm");
  if (tokens > 1 && stride_of(x, 0) < x.shape(1) * dim) {
    refuse("x", "tokens that do not overlap", x, "use a copy of it");
  }
  if (cos.has_value() != sin.has_value()) throw std::invalid_argument("cos, sin: one is None; give both or neither");
  if (cos && dim % 2 != 0) refuse("x", "an even last dimension", x, "rotary embedding turns pairs");
  const float* scale = weight ? require_floats("weight", *weight, {dim}) : nullptr;
  const float* cosine = cos ? require_floats("cos", *cos, {tokens, dim}) : nullptr;
  const float* sine = sin ? require_floats("sin", *sin, {tokens, dim}) : nullptr;
  const auto run = bfloat16 ? &run_norm_rotary<uint16_t> : &run_norm_rotary<float>;
  run(x, scale, eps, cosine, sine, require_threads(threads), resolve_isa(isa));
}

}  // namespace

void bind_norms(py::module_& module) {
  using namespace pybind11::literals;
  module.def("add_rms_norm", &bind_add_rms_norm, "x"_a, "residual"_a.none(true), "weight"_a, "eps"_a, "out"_a,
             py::kw_only(), "threads"_a = 1, "isa"_a = "auto",
             "residual <- residual + x in place; out <- RMS norm of that (of x itself without a residual).");
  module.def("norm_rotary", &bind_norm_rotary, "x"_a, "weight"_a.none(true), "eps"_a, "cos"_a.none(true),
             "sin"_a.none(true), py::kw_only(), "threads"_a = 1, "isa"_a = "auto",
             "x <- rotary embedding of the RMS-normed heads in place; without a weight or without cos and sin, that "
             "part is left out.");
}

}  // namespace nagfast
