// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "arrays.h"
#include "bindings.h"
#include "count_sketch.h"
#include "nag_arrays.h"
#include "sets.h"

namespace nagfast {
namespace {

constexpr int64_t kMaxDimensions = 1 << 16;

void require_neurons(int64_t neurons) {
  if (neurons >= 1) return;
  throw std::invalid_argument("neurons: expected at least 1, got " + std::to_string(neurons) +
                              "; give N, the neurons of a layer");
}

// The two sides of an overlap; returns whether they are uint16.
bool require_sides(const py::array& a, const py::array& b, int64_t neurons) {
  require_neurons(neurons);
  const bool narrow = require_nags(a, neurons, "a");
  if (require_nags(b, neurons, "b") != narrow) refuse("b", describe(a) + ", the type of a", b, "convert it with astype");
  if (b.shape(1) != a.shape(1)) {
    refuse("b", std::to_string(a.shape(1)) + " layers, as a has", b, "compare NAGs of one model");
  }
  return narrow;
}

void require_weights(const py::array& weights, int64_t layers, int64_t neurons) {
  require_dtype<uint32_t>("weights", weights, "uint32");
  require_shape("weights", weights, {layers, neurons});
  require_layout("weights", weights, 2, 2);
}

template <typename Sum>
void require_out(const py::array& out, std::initializer_list<int64_t> shape) {
  require_dtype<Sum>("out", out, sizeof(Sum) == 4 ? "int32 (int64 with weights)" : "int64 (int32 without weights)");
  require_shape("out", out, shape);
  require_layout("out", out, static_cast<py::ssize_t>(shape.size()), static_cast<py::ssize_t>(shape.size()));
  require_writeable("out", out);
}

using Weights = std::optional<py::array>;

// Builds the checked task of the right types and calls run(task) with the GIL released.
template <typename Run>
void with_task(const py::array& a, const py::array& b, const py::array& out, int64_t neurons, const Weights& weights,
               std::initializer_list<int64_t> shape, const Run& run) {
  const bool narrow = require_sides(a, b, neurons);
  const uint32_t* table = nullptr;
  if (weights) {
    require_weights(*weights, a.shape(1), neurons);
    table = static_cast<const uint32_t*>(weights->data());
    require_out<int64_t>(out, shape);
  } else {
    require_out<int32_t>(out, shape);
  }
  void* data = const_cast<void*>(out.data());
  const auto call = [&](auto index, auto sum) {
    using Index = decltype(index);
    using Sum = decltype(sum);
    const OverlapTask<Index, Sum> task{view_nags<Index>(a), view_nags<Index>(b), neurons, table,
                                       static_cast<Sum*>(data)};
    const py::gil_scoped_release release;
    run(task);
  };
  if (narrow) return weights ? call(uint16_t{}, int64_t{}) : call(uint16_t{}, int32_t{});
  return weights ? call(uint32_t{}, int64_t{}) : call(uint32_t{}, int32_t{});
}

void bind_pairs(const py::array& a, const py::array& b, const py::array& out, int64_t neurons, const Weights& weights,
                int64_t threads) {
  const int workers = require_threads(threads);
  require_sides(a, b, neurons);
  if (b.shape(0) != a.shape(0)) {
    refuse("b", std::to_string(a.shape(0)) + " documents, as a has", b, "pair them one by one");
  }
  with_task(a, b, out, neurons, weights, {a.shape(0)}, [=](const auto& task) { overlap_pairs(task, workers); });
}

void bind_matrix(const py::array& a, const py::array& b, const py::array& out, int64_t neurons, const Weights& weights,
                 int64_t threads, const std::string& isa) {
  const int workers = require_threads(threads);
  const Isa set = resolve_isa(isa, true);
  require_sides(a, b, neurons);
  with_task(a, b, out, neurons, weights, {a.shape(0), b.shape(0)},
            [=](const auto& task) { overlap_matrix(task, workers, set); });
}

void bind_candidates(const py::array& a, const py::array& b, const py::array& candidates, const py::array& out,
                     int64_t neurons, const Weights& weights, int64_t threads, const std::string& isa) {
  const int workers = require_threads(threads);
  const Isa set = resolve_isa(isa, true);
  require_sides(a, b, neurons);
  require_dtype<int64_t>("candidates", candidates, "int64");
  require_layout("candidates", candidates, 2, 2);
  const int64_t columns = candidates.shape(1);
  require_shape("candidates", candidates, {a.shape(0), columns});
  const auto* rows = static_cast<const int64_t*>(candidates.data());
  with_task(a, b, out, neurons, weights, {a.shape(0), columns},
            [=](const auto& task) { overlap_candidates(task, rows, columns, workers, set); });
}

template <typename Index>
void run_sketch(const py::array& nags, const py::array& weights, const py::array& out, uint64_t seed, int threads) {
  const SketchTask<Index> task{view_nags<Index>(nags),
                               static_cast<const float*>(weights.data()),
                               weights.shape(1),
                               out.shape(1),
                               seed,
                               static_cast<float*>(const_cast<void*>(out.data()))};
  const py::gil_scoped_release release;
  count_sketch(task, threads);
}

void bind_sketch(const py::array& nags, const py::array& weights, const py::array& out, uint64_t seed,
                 int64_t threads) {
  require_dtype<float>("weights", weights, "float32");
  require_layout("weights", weights, 2, 2);
  const bool narrow = require_nags(nags, weights.shape(1));
  require_neurons(weights.shape(1));
  require_shape("weights", weights, {nags.shape(1), weights.shape(1)});
  require_dtype<float>("out", out, "float32");
  require_layout("out", out, 2, 2);
  const int64_t dimensions = out.shape(1);
  if (dimensions < 1 || dimensions > kMaxDimensions || (dimensions & (dimensions - 1)) != 0) {
    refuse("out", "a power of two up to " + std::to_string(kMaxDimensions) + " columns", out, "512 is a good number");
  }
  require_shape("out", out, {nags.shape(0), dimensions});
  require_writeable("out", out);
  (narrow ? &run_sketch<uint16_t> : &run_sketch<uint32_t>)(nags, weights, out, seed, require_threads(threads));
}

}  // namespace

void bind_sets(py::module_& module) {
  using namespace pybind11::literals;
  const auto weights = "weights"_a.none(true) = py::none();
  module.def("overlap_pairs", &bind_pairs, "a"_a, "b"_a, "out"_a, py::kw_only(), "neurons"_a, weights, "threads"_a = 1,
             "out[i] <- neurons in common of a[i] and b[i], or the sum of their weights.");
  module.def("overlap_matrix", &bind_matrix, "a"_a, "b"_a, "out"_a, py::kw_only(), "neurons"_a, weights,
             "threads"_a = 1, "isa"_a = "auto", "out[i, j] <- neurons in common of a[i] and b[j], or their weights.");
  module.def("overlap_candidates", &bind_candidates, "a"_a, "b"_a, "candidates"_a, "out"_a, py::kw_only(),
             "neurons"_a, weights, "threads"_a = 1, "isa"_a = "auto",
             "out[i, j] <- neurons in common of a[i] and b[candidates[i, j]], or their weights; -1 for candidate -1.");
  module.def("count_sketch", &bind_sketch, "nags"_a, "weights"_a, "out"_a, py::kw_only(), "seed"_a = 0,
             "threads"_a = 1, "out[d] <- signed, weighted, hashed sum of the neurons of document d, of length 1.");
}

}  // namespace nagfast
