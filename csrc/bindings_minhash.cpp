// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"
#include "bindings.h"
#include "isa.h"
#include "minhash.h"
#include "nag_arrays.h"

namespace nagfast {
namespace {

template <typename Index>
void run_minhash(const py::array& nags, int64_t neurons, const py::array& a, const py::array& b, const py::array& out,
                 int threads, Isa isa) {
  MinhashTask<Index> task{};
  task.nags = view_nags<Index>(nags);
  task.neurons = neurons;
  task.a = static_cast<const uint32_t*>(a.data());
  task.b = static_cast<const uint32_t*>(b.data());
  task.permutations = a.shape(0);
  task.out = static_cast<uint32_t*>(const_cast<void*>(out.data()));
  const py::gil_scoped_release release;
  minhash(task, threads, isa);
}

void require_words(const char* name, const py::array& array, std::initializer_list<int64_t> shape) {
  require_dtype<uint32_t>(name, array, "uint32");
  require_shape(name, array, shape);
  require_layout(name, array, array.ndim(), array.ndim());
}

void bind(const py::array& nags, int64_t neurons, const py::array& a, const py::array& b, const py::array& out,
          int64_t threads, const std::string& isa) {
  if (neurons < 1) {
    throw std::invalid_argument("neurons: expected at least 1, got " + std::to_string(neurons) +
                                "; pass N, the neurons of a layer");
  }
  const bool narrow = require_nags(nags, neurons);
  constexpr int64_t kElements = int64_t{1} << 32;
  if (neurons > kElements / nags.shape(1)) {
    throw std::invalid_argument("neurons: " + std::to_string(nags.shape(1)) + " layers of " + std::to_string(neurons) +
                                " make more than 2^32 elements, which 32-bit hashes cannot tell apart; "
                                "use fewer layers");
  }
  if (a.ndim() != 1 || a.shape(0) == 0) refuse("a", "[p] with p >= 1", a, "one entry per permutation");
  require_words("a", a, {a.shape(0)});
  require_words("b", b, {a.shape(0)});
  require_words("out", out, {nags.shape(0), a.shape(0)});
  require_writeable("out", out);
  const auto run = narrow ? &run_minhash<uint16_t> : &run_minhash<uint32_t>;
  run(nags, neurons, a, b, out, require_threads(threads), resolve_isa(isa));
}

}  // namespace

void bind_minhash(pybind11::module_& module) {
  using namespace pybind11::literals;
  module.def("minhash", &bind, "nags"_a, "neurons"_a, "a"_a, "b"_a, "out"_a, py::kw_only(), "threads"_a = 1,
             "isa"_a = "auto", "out[d, k] <- min over the document's elements e of a[k] * mix(e) + b[k] mod 2^32.");
}

}  // namespace nagfast
