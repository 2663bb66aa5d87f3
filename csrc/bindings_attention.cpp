// SPDX-License-Identifier: Apache-2.0
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>

#include "arrays.h"
#include "attention.h"
#include "bindings.h"
#include "impact_arrays.h"
#include "isa.h"

namespace nagfast {
namespace {

int64_t row_stride_of(const py::array& array) { return array.shape(0) > 1 ? stride_of(array, 0) : 0; }

template <typename Scalar>
void run_attention(const py::array& query, const py::array& key, const py::array& value, const py::array& cu_seqlens,
                   const py::array& out, float scale, int64_t window, int threads, Isa isa) {
  AttentionBatch<Scalar> batch{};
  batch.query = static_cast<const Scalar*>(query.data());
  batch.query_stride = row_stride_of(query);
  batch.key = static_cast<const Scalar*>(key.data());
  batch.key_stride = row_stride_of(key);
  batch.value = static_cast<const Scalar*>(value.data());
  batch.value_stride = row_stride_of(value);
  batch.out = static_cast<Scalar*>(const_cast<void*>(out.data()));
  batch.out_stride = row_stride_of(out);
  batch.cu_seqlens = static_cast<const int64_t*>(cu_seqlens.data());
  batch.documents = cu_seqlens.size() - 1;
  batch.heads = query.shape(1);
  batch.groups = key.shape(1);
  batch.dim = query.shape(2);
  batch.value_dim = value.shape(2);
  batch.scale = scale;
  batch.window = window;
  const py::gil_scoped_release release;
  causal_attention(batch, threads, isa);
}

void require_heads(const char* name, const py::array& array, const py::array& query) {
  if (!array.dtype().equal(query.dtype())) refuse(name, "the dtype of query", array, "convert it");
  require_layout(name, array, 3, 2);
  if (array.shape(0) != query.shape(0)) refuse(name, "as many tokens as query", array, "pass the same batch");
}

void bind_causal_attention(const py::array& query, const py::array& key, const py::array& value,
                           const py::array& cu_seqlens, const py::array& out, float scale,
                           const std::optional<int64_t>& window, int64_t threads, const std::string& isa) {
  const bool bfloat16 = holds<uint16_t>(query);
  if (!bfloat16) require_dtype<float>("query", query, "float32, or uint16 holding bfloat16");
  require_layout("query", query, 3, 2);
  require_heads("key", key, query);
  require_heads("value", value, query);
  require_heads("out", out, query);
  const int64_t groups = key.shape(1);
  if (groups == 0 || query.shape(2) == 0 || query.shape(1) % groups != 0) {
    refuse("query", "a multiple of the heads of key, and at least one element to a head", query, "check the split");
  }
  if (key.shape(2) != query.shape(2)) refuse("key", "heads as wide as those of query", key, "check the split");
  if (value.shape(1) != groups || value.shape(2) == 0) refuse("value", "the heads of key", value, "check the split");
  require_shape("out", out, {query.shape(0), query.shape(1), value.shape(2)});
  require_writeable("out", out);
  if (out.shape(0) > 1 && stride_of(out, 0) < out.shape(1) * out.shape(2)) {
    refuse("out", "tokens that do not overlap", out, "allocate it anew");
  }
  require_cu_seqlens(cu_seqlens, query.shape(0));
  if (!(scale > 0)) throw std::invalid_argument("scale: expected a number above 0, got " + std::to_string(scale));
  if (window && *window < 1) {
    throw std::invalid_argument("window: expected at least 1 token, got " + std::to_string(*window) +
                                "; None is no window");
  }
  const auto run = bfloat16 ? &run_attention<uint16_t> : &run_attention<float>;
  run(query, key, value, cu_seqlens, out, scale, window.value_or(std::numeric_limits<int64_t>::max()),
      require_threads(threads), resolve_isa(isa));
}

}  // namespace

void bind_attention(py::module_& module) {
  using namespace pybind11::literals;
  module.def("causal_attention", &bind_causal_attention, "query"_a, "key"_a, "value"_a, "cu_seqlens"_a, "out"_a,
             "scale"_a, py::kw_only(), "window"_a.none(true) = py::none(), "threads"_a = 1, "isa"_a = "auto",
             "out <- causal attention inside each document, within a window where one is given.");
}

}  // namespace nagfast
