// SPDX-License-Identifier: Apache-2.0
// The border with Python: arguments are checked here, once, and algorithms run with the GIL released.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>

#include "arrays.h"
#include "bindings.h"
#include "count.h"
#include "impact.h"
#include "impact_arrays.h"
#include "isa.h"
#include "nag_arrays.h"
#include "score.h"
#include "topk.h"

namespace nagfast {
namespace {

// `columns` of `array` belong to each half of a gated array, or are all of it. Gated arrays are written.
template <typename Scalar>
void run_impact(const py::array& array, bool gated, int64_t columns, const py::array& cu_seqlens,
                const py::array& impact, Activation activation, Reduction reduction, int threads, Isa isa) {
  auto* data = static_cast<Scalar*>(const_cast<void*>(array.data()));
  ImpactBatch<Scalar> batch{};
  batch.gate = gated ? data : nullptr;
  batch.up = gated ? data + columns : data;
  batch.row_stride = array.shape(0) > 1 ? stride_of(array, 0) : 0;
  batch.columns = columns;
  batch.cu_seqlens = static_cast<const int64_t*>(cu_seqlens.data());
  batch.documents = cu_seqlens.size() - 1;
  batch.impact = static_cast<float*>(const_cast<void*>(impact.data()));
  batch.activation = activation;
  batch.reduction = reduction;
  const py::gil_scoped_release release;
  compute_impact(batch, threads, isa);
}

void impact_of(const char* name, const py::array& array, bool gated, const py::array& cu_seqlens,
               const py::array& impact, Activation activation, const std::string& reduction, int64_t threads,
               const std::string& isa) {
  const bool bfloat16 = holds<uint16_t>(array);
  if (!bfloat16) require_dtype<float>(name, array, "float32, or uint16 holding bfloat16");
  require_layout(name, array, 2, 1);
  const int64_t tokens = array.shape(0);
  const int64_t width = array.shape(1);
  if (gated) {
    require_writeable(name, array);
    if (width % 2 != 0) refuse(name, "an even number of columns", array, "pass gate and up side by side");
    if (tokens > 1 && stride_of(array, 0) < width) refuse(name, "rows that do not overlap", array, "use a copy of it");
  }
  const int64_t columns = gated ? width / 2 : width;
  const int64_t documents = require_cu_seqlens(cu_seqlens, tokens);
  require_impact(impact, documents, columns);
  const auto run = bfloat16 ? &run_impact<uint16_t> : &run_impact<float>;
  run(array, gated, columns, cu_seqlens, impact, activation, parse_reduction(reduction), require_threads(threads),
      resolve_isa(isa));
}

template <typename Index>
void run_topk(const py::array& values, int64_t k, const py::array& out, int threads, Isa isa) {
  const int64_t columns = values.shape(1);
  if (columns > std::numeric_limits<Index>::max()) {
    refuse("out", "uint32 for rows of more than 65535 values", out, "65535 is the sentinel in uint16");
  }
  TopkBatch<Index> batch{};
  batch.values = static_cast<const float*>(values.data());
  batch.row_stride = stride_of(values, 0);
  batch.rows = values.shape(0);
  batch.columns = columns;
  batch.k = k;
  batch.out = static_cast<Index*>(const_cast<void*>(out.data()));
  batch.out_stride = stride_of(out, 0);
  const py::gil_scoped_release release;
  topk(batch, threads, isa);
}

void bind_topk(const py::array& values, int64_t k, const py::array& out, int64_t threads, const std::string& isa) {
  require_dtype<float>("values", values, "float32");
  require_layout("values", values, 2, 1);
  if (k < 1 || k > values.shape(1)) {
    throw std::invalid_argument("k: expected 1 to " + std::to_string(values.shape(1)) +
                                " (the values of a row), got " + std::to_string(k));
  }
  const bool narrow = holds<uint16_t>(out);
  if (!narrow) require_dtype<uint32_t>("out", out, "uint16 or uint32");
  require_shape("out", out, {values.shape(0), k});
  require_layout("out", out, 2, 1);
  require_writeable("out", out);
  if (out.shape(0) > 1 && stride_of(out, 0) < k) refuse("out", "rows that do not overlap", out, "use a copy of it");
  const auto run = narrow ? &run_topk<uint16_t> : &run_topk<uint32_t>;
  run(values, k, out, require_threads(threads), resolve_isa(isa));
}

template <typename Index, typename Count>
void run_score(const py::array& nags, const py::array& table, const py::array& out, int threads, Isa isa) {
  ScoreTask<Index, Count> task{};
  task.nags = view_nags<Index>(nags);
  task.table = static_cast<const Count*>(table.data());
  task.neurons = table.shape(1);
  task.profiles = table.shape(2);
  task.out = static_cast<int64_t*>(const_cast<void*>(out.data()));
  const py::gil_scoped_release release;
  score(task, threads, isa);
}

void bind_score(const py::array& nags, const py::array& table, const py::array& out, int64_t threads,
                const std::string& isa) {
  const bool short_counts = holds<uint16_t>(table);
  if (!short_counts) require_dtype<uint32_t>("table", table, "uint16 or uint32");
  require_layout("table", table, 3, 3);
  const bool short_nags = require_nags(nags, table.shape(1));
  if (table.shape(0) != nags.shape(1)) {
    refuse("table", std::to_string(nags.shape(1)) + " layers, as nags has", table, "use a profile of the same model");
  }
  require_dtype<int64_t>("out", out, "int64");
  require_shape("out", out, {nags.shape(0), table.shape(2)});
  require_layout("out", out, 2, 2);
  require_writeable("out", out);
  const auto narrow = short_counts ? &run_score<uint16_t, uint16_t> : &run_score<uint16_t, uint32_t>;
  const auto wide = short_counts ? &run_score<uint32_t, uint16_t> : &run_score<uint32_t, uint32_t>;
  (short_nags ? narrow : wide)(nags, table, out, require_threads(threads), resolve_isa(isa));
}

template <typename Index>
int64_t run_count(const py::array& nags, const py::array& counts, int threads) {
  const NagView<Index> view = view_nags<Index>(nags);
  const int64_t neurons = counts.shape(1);
  auto* data = static_cast<int64_t*>(const_cast<void*>(counts.data()));
  const py::gil_scoped_release release;
  return count(view, neurons, data, threads);
}

int64_t bind_count(const py::array& nags, const py::array& counts, int64_t threads) {
  require_dtype<int64_t>("counts", counts, "int64");
  require_layout("counts", counts, 2, 2);
  require_writeable("counts", counts);
  const bool narrow = require_nags(nags, counts.shape(1));
  if (counts.shape(0) != nags.shape(1)) {
    refuse("counts", std::to_string(nags.shape(1)) + " layers, as nags has", counts, "allocate it as [L, N]");
  }
  return (narrow ? &run_count<uint16_t> : &run_count<uint32_t>)(nags, counts, require_threads(threads));
}

}  // namespace
}  // namespace nagfast

PYBIND11_MODULE(_C, module) {
  namespace py = pybind11;
  using namespace pybind11::literals;
  using nagfast::bind_count;
  using nagfast::bind_score;
  using nagfast::bind_topk;

  module.doc() = "Native operations of nagfast; the same bytes from every instruction set and number of threads.";
  module.def(
      "available_isas",
      [](bool sets) {
        std::vector<std::string> names;
        for (const nagfast::Isa isa : nagfast::available_isas(sets)) names.push_back(nagfast::isa_name(isa));
        return names;
      },
      "sets"_a = false,
      "Instruction sets that this build and machine can run, slowest first; `sets`: with those for set similarity only.");
  module.def(
      "resolve_isa", [](const std::string& isa) { return nagfast::isa_name(nagfast::resolve_isa(isa)); }, "isa"_a,
      "The instruction set that `isa` stands for.");
  module.def(
      "swiglu_impact",
      [](const py::array& gate_up, const py::array& cu_seqlens, const py::array& impact, const std::string& activation,
         const std::string& reduction, int64_t threads, const std::string& isa) {
        nagfast::impact_of("gate_up", gate_up, true, cu_seqlens, impact, nagfast::parse_activation(activation),
                           reduction, threads, isa);
      },
      "gate_up"_a, "cu_seqlens"_a, "impact"_a, py::kw_only(), "activation"_a = "silu", "reduction"_a = "mean_abs",
      "threads"_a = 1, "isa"_a = "auto",
      "gate <- act(gate) * up in place; impact <- mean |up| or its norm, document by document.");
  module.def(
      "segment_impact",
      [](const py::array& x, const py::array& cu_seqlens, const py::array& impact, const std::string& reduction,
         int64_t threads, const std::string& isa) {
        nagfast::impact_of("x", x, false, cu_seqlens, impact, nagfast::Activation::kSilu, reduction, threads, isa);
      },
      "x"_a, "cu_seqlens"_a, "impact"_a, py::kw_only(), "reduction"_a = "mean_abs", "threads"_a = 1, "isa"_a = "auto",
      "impact <- mean |x| or its norm, document by document; x is not written.");
  module.def("topk", &bind_topk, "values"_a, "k"_a, "out"_a, py::kw_only(), "threads"_a = 1, "isa"_a = "auto",
             "out <- indices of the k largest values of each row, largest first, ties to the lower index.");
  module.def("score", &bind_score, "nags"_a, "table"_a, "out"_a, py::kw_only(), "threads"_a = 1, "isa"_a = "auto",
             "out[d, p] <- sum over layers and entries of table[l, nags[d, l, i], p]; 0 without a NAG.");
  module.def("count", &bind_count, "nags"_a, "counts"_a, py::kw_only(), "threads"_a = 1,
             "counts[l, i] += documents holding neuron i in layer l; returns the documents that have a NAG.");
  nagfast::bind_backward(module);
  nagfast::bind_norms(module);
  nagfast::bind_attention(module);
  nagfast::bind_bits(module);
  nagfast::bind_sets(module);
  nagfast::bind_minhash(module);
}
