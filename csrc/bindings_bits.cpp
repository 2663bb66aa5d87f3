// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "arrays.h"
#include "bindings.h"
#include "bit_targets.h"
#include "isa.h"
#include "nag_arrays.h"
#include "prototypes.h"

namespace nagfast {
namespace {

constexpr int64_t kMostNeighbours = 4096;

[[noreturn]] void refuse_value(const char* name, const std::string& where, int64_t value, const std::string& mend) {
  throw std::invalid_argument(std::string(name) + ": " + where + " is " + std::to_string(value) + "; " + mend);
}

// One dimension, contiguous.
template <typename T>
const T* require_vector(const char* name, const py::array& array, const char* dtype) {
  require_dtype<T>(name, array, dtype);
  require_layout(name, array, 1, 1);
  return static_cast<const T*>(array.data());
}

std::vector<int64_t> order_of(const std::optional<py::array>& order, int64_t documents) {
  std::vector<int64_t> rows;
  if (!order) {
    rows.resize(static_cast<size_t>(documents));
    std::iota(rows.begin(), rows.end(), int64_t{0});
    return rows;
  }
  const int64_t* data = require_vector<int64_t>("order", *order, "int64");
  rows.assign(data, data + order->size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] >= 0 && rows[i] < documents) continue;
    refuse_value("order", "entry " + std::to_string(i), rows[i],
                 "nags has " + std::to_string(documents) + " rows, counted from 0");
  }
  return rows;
}

std::vector<int64_t> starts_of(const std::optional<py::array>& starts, int64_t lanes) {
  if (!starts) return {0, lanes};
  const int64_t* data = require_vector<int64_t>("starts", *starts, "int64");
  std::vector<int64_t> values(data, data + starts->size());
  if (values.empty()) refuse("starts", "at least one entry", *starts, "no lists is [0]");
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t least = i == 0 ? 0 : values[i - 1];
    if (values[i] >= least && (i > 0 || values[i] == 0)) continue;
    refuse_value("starts", "entry " + std::to_string(i), values[i], "entries must rise from 0 to the number of lanes");
  }
  if (values.back() != lanes) {
    refuse_value("starts", "the last entry", values.back(),
                 "it must be the number of lanes, " + std::to_string(lanes));
  }
  return values;
}

std::unique_ptr<BitTargets> make_targets(const py::array& nags, int64_t neurons, const std::optional<py::array>& order,
                                         const std::optional<py::array>& starts, int64_t threads) {
  if (neurons < 1) refuse_value("neurons", "it", neurons, "give the neurons of a layer, N");
  const bool narrow = require_nags(nags, neurons);
  const int64_t most = nags.shape(1) * nags.shape(2);
  if (most > kMaxCount) refuse("nags", "at most " + std::to_string(kMaxCount) + " entries a document", nags, "lower K");
  const std::vector<int64_t> rows = order_of(order, nags.shape(0));
  const auto lanes = static_cast<int64_t>(rows.size());
  const std::vector<int64_t> lists = starts_of(starts, lanes);
  const int workers = require_threads(threads);
  const auto build = [&](const auto& view) {
    const py::gil_scoped_release release;
    return std::make_unique<BitTargets>(view, neurons, rows.data(), lanes, lists.data(),
                                        static_cast<int64_t>(lists.size()) - 1, workers);
  };
  return narrow ? build(view_nags<uint16_t>(nags)) : build(view_nags<uint32_t>(nags));
}

// Results that hold what an earlier search left, or -1.
NearestResults require_results(const py::array& counts, const py::array& ids, int64_t queries, int64_t most) {
  require_dtype<int32_t>("counts", counts, "int32");
  require_layout("counts", counts, 2, 2);
  const int64_t k = counts.shape(1);
  if (k < 1 || k > kMostNeighbours) {
    refuse("counts", "1 to " + std::to_string(kMostNeighbours) + " columns", counts, "they are the neighbours wanted, k");
  }
  require_shape("counts", counts, {queries, k});
  require_writeable("counts", counts);
  require_dtype<int64_t>("ids", ids, "int64");
  require_shape("ids", ids, {queries, k});
  require_layout("ids", ids, 2, 2);
  require_writeable("ids", ids);
  const NearestResults results{static_cast<int32_t*>(const_cast<void*>(counts.data())),
                               static_cast<int64_t*>(const_cast<void*>(ids.data())), k};
  for (int64_t i = 0; i < queries * k; ++i) {
    const int64_t count = results.counts[i];
    const int64_t id = results.ids[i];
    const bool none = count == -1 && id == -1;
    if (none || (count >= 0 && count <= most && id >= 0 && id <= kMaxId)) continue;
    const std::string where = "row " + std::to_string(i / k) + " holds id " + std::to_string(id) + ", whose count";
    refuse_value("counts", where, count, "start with -1 in counts and ids, or with the results of another search");
  }
  return results;
}

// Calls work(view of the queries, results) once the arguments are checked.
template <typename Work>
void run_search(const BitTargets& targets, const py::array& queries, const py::array& counts, const py::array& ids,
                int64_t first, const Work& work) {
  const bool narrow = require_nags(queries, targets.neurons(), "queries");
  if (queries.shape(1) != targets.layers() || queries.shape(2) != targets.k()) {
    refuse("queries", "[n, " + std::to_string(targets.layers()) + ", " + std::to_string(targets.k()) + "], as targets",
           queries, "use NAGs of one kind");
  }
  if (first < 0 || first > kMaxId - std::max<int64_t>(targets.highest_id(), 0)) {
    refuse_value("first", "it", first, "ids run from 0 to " + std::to_string(kMaxId));
  }
  const NearestResults results = require_results(counts, ids, queries.shape(0), targets.layers() * targets.k());
  if (narrow) {
    const auto view = view_nags<uint16_t>(queries);
    const py::gil_scoped_release release;
    work(view, results);
  } else {
    const auto view = view_nags<uint32_t>(queries);
    const py::gil_scoped_release release;
    work(view, results);
  }
}

void search(const BitTargets& targets, const py::array& queries, const py::array& counts, const py::array& ids,
            int64_t first, int64_t threads, const std::string& isa) {
  const int workers = require_threads(threads);
  const Isa set = resolve_isa(isa);
  run_search(targets, queries, counts, ids, first, [&](const auto& view, const NearestResults& results) {
    targets.search(view, results, first, workers, set);
  });
}

void search_lists(const BitTargets& targets, const py::array& queries, const py::array& probes,
                  const py::array& counts, const py::array& ids, int64_t first, int64_t threads,
                  const std::string& isa) {
  const int workers = require_threads(threads);
  const Isa set = resolve_isa(isa);
  require_dtype<int32_t>("probes", probes, "int32");
  require_layout("probes", probes, 2, 2);
  const int64_t width = probes.shape(1);
  if (queries.ndim() == 3) require_shape("probes", probes, {queries.shape(0), width});
  const auto* lists = static_cast<const int32_t*>(probes.data());
  for (int64_t i = 0; i < probes.size(); ++i) {
    if (lists[i] >= -1 && lists[i] < targets.lists()) continue;
    refuse_value("probes", "an entry of row " + std::to_string(i / width), lists[i],
                 "there are " + std::to_string(targets.lists()) + " lists, counted from 0, and -1 for none");
  }
  run_search(targets, queries, counts, ids, first, [&](const auto& view, const NearestResults& results) {
    targets.search_lists(view, lists, width, results, first, workers, set);
  });
}

template <typename Index>
void run_prototypes(const py::array& nags, const int32_t* assignment, const py::array& out, int64_t neurons,
                    int threads) {
  PrototypeTask<Index> task{};
  task.nags = view_nags<Index>(nags);
  task.neurons = neurons;
  task.assignment = assignment;
  task.clusters = out.shape(0);
  task.k = out.shape(2);
  task.out = static_cast<Index*>(const_cast<void*>(out.data()));
  const py::gil_scoped_release release;
  prototypes(task, threads);
}

void bind_prototypes(const py::array& nags, const py::array& assignment, const py::array& out, int64_t neurons,
                     int64_t threads) {
  const bool narrow = require_nags(nags, neurons);
  if (narrow) {
    require_dtype<uint16_t>("out", out, "uint16, as nags");
  } else {
    require_dtype<uint32_t>("out", out, "uint32, as nags");
  }
  require_layout("out", out, 3, 3);
  require_shape("out", out, {out.shape(0), nags.shape(1), out.shape(2)});
  require_writeable("out", out);
  if (out.shape(2) < 1 || out.shape(2) > neurons) {
    refuse("out", "K from 1 to " + std::to_string(neurons) + " (the neurons of a layer)", out, "check the shape");
  }
  const int32_t* clusters = require_vector<int32_t>("assignment", assignment, "int32");
  require_shape("assignment", assignment, {nags.shape(0)});
  for (int64_t d = 0; d < assignment.size(); ++d) {
    if (clusters[d] >= -1 && clusters[d] < out.shape(0)) continue;
    refuse_value("assignment", "entry " + std::to_string(d), clusters[d],
                 "out has " + std::to_string(out.shape(0)) + " clusters, counted from 0, and -1 leaves one out");
  }
  const auto run = narrow ? &run_prototypes<uint16_t> : &run_prototypes<uint32_t>;
  run(nags, clusters, out, neurons, require_threads(threads));
}

}  // namespace

void bind_bits(py::module_& module) {
  using namespace pybind11::literals;
  py::class_<BitTargets>(module, "BitTargets", "Target NAGs as rows of bits, for exact nearest targets.")
      .def(py::init(&make_targets), "nags"_a, "neurons"_a, py::kw_only(), "order"_a = py::none(),
           "starts"_a = py::none(), "threads"_a = 1)
      .def_property_readonly("lanes", &BitTargets::lanes, "Targets.")
      .def_property_readonly("lists", &BitTargets::lists, "Lists.")
      .def_property_readonly("bytes", &BitTargets::bytes, "Memory held.")
      .def("search", &search, "queries"_a, "counts"_a, "ids"_a, py::kw_only(), "first"_a = 0, "threads"_a = 1,
           "isa"_a = "auto", "Merges all targets into each query's nearest.")
      .def("search_lists", &search_lists, "queries"_a, "probes"_a, "counts"_a, "ids"_a, py::kw_only(), "first"_a = 0,
           "threads"_a = 1, "isa"_a = "auto", "Merges the targets of the lists probed into each query's nearest.");
  module.def("prototypes", &bind_prototypes, "nags"_a, "assignment"_a, "out"_a, py::kw_only(), "neurons"_a,
             "threads"_a = 1, "out[c, l] <- the most frequent neurons of cluster c in layer l, ties to the lower index.");
}

}  // namespace nagfast
