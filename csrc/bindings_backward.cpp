// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>

#include "arrays.h"
#include "bindings.h"
#include "impact_arrays.h"
#include "isa.h"
#include "swiglu_backward.h"

namespace nagfast {
namespace {

template <typename Scalar>
void run_backward(const py::array& gate_up, const py::array& d_act, const py::array& cu_seqlens,
                  const py::array& impact, Activation activation, Reduction reduction, int threads, Isa isa) {
  auto* data = static_cast<Scalar*>(const_cast<void*>(gate_up.data()));
  BackwardBatch<Scalar> batch{};
  batch.columns = d_act.shape(1);
  batch.gate = data;
  batch.up = data + batch.columns;
  batch.row_stride = gate_up.shape(0) > 1 ? stride_of(gate_up, 0) : 0;
  batch.d_act = static_cast<const Scalar*>(d_act.data());
  batch.d_stride = d_act.shape(0) > 1 ? stride_of(d_act, 0) : 0;
  batch.cu_seqlens = static_cast<const int64_t*>(cu_seqlens.data());
  batch.documents = cu_seqlens.size() - 1;
  batch.impact = static_cast<float*>(const_cast<void*>(impact.data()));
  batch.activation = activation;
  batch.reduction = reduction;
  const py::gil_scoped_release release;
  swiglu_backward(batch, threads, isa);
}

void bind_swiglu_backward(const py::array& gate_up, const py::array& d_act, const py::array& cu_seqlens,
                          const py::array& impact, const std::string& activation, const std::string& reduction,
                          int64_t threads, const std::string& isa) {
  const bool bfloat16 = holds<uint16_t>(gate_up);
  if (!bfloat16) require_dtype<float>("gate_up", gate_up, "float32, or uint16 holding bfloat16");
  require_layout("gate_up", gate_up, 2, 1);
  require_writeable("gate_up", gate_up);
  const int64_t tokens = gate_up.shape(0);
  const int64_t width = gate_up.shape(1);
  if (width % 2 != 0) refuse("gate_up", "an even number of columns", gate_up, "pass gate and up side by side");
  if (tokens > 1 && stride_of(gate_up, 0) < width) {
    refuse("gate_up", "rows that do not overlap", gate_up, "use a copy of it");
  }
  bfloat16 ? require_dtype<uint16_t>("d_act", d_act, "uint16 holding bfloat16, as gate_up")
           : require_dtype<float>("d_act", d_act, "float32, as gate_up");
  require_shape("d_act", d_act, {tokens, width / 2});
  require_layout("d_act", d_act, 2, 1);
  require_impact(impact, require_cu_seqlens(cu_seqlens, tokens), width / 2);
  const auto run = bfloat16 ? &run_backward<uint16_t> : &run_backward<float>;
  run(gate_up, d_act, cu_seqlens, impact, parse_activation(activation), parse_reduction(reduction),
      require_threads(threads), resolve_isa(isa));
}

}  // namespace

void bind_backward(py::module_& module) {
  using namespace pybind11::literals;
  module.def("swiglu_backward", &bind_swiglu_backward, "gate_up"_a, "d_act"_a, "cu_seqlens"_a, "impact"_a,
             py::kw_only(), "activation"_a = "silu", "reduction"_a = "mean_abs", "threads"_a = 1, "isa"_a = "auto",
             "gate <- d * up * act'(gate), up <- d * act(gate) in place; impact <- mean |act(gate) * up * d| or its "
             "norm, document by document.");
}

}  // namespace nagfast
