// SPDX-License-Identifier: Apache-2.0
// Checks of the arguments that the operations on packed documents share.
#pragma once

#include <string>

#include "arrays.h"
#include "impact.h"

namespace nagfast {

inline Reduction parse_reduction(const std::string& name) {
  if (name == "mean_abs") return Reduction::kMeanAbs;
  if (name == "l2") return Reduction::kL2;
  throw std::invalid_argument("reduction: expected 'mean_abs' or 'l2', got '" + name + "'");
}

inline Activation parse_activation(const std::string& name) {
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  throw std::invalid_argument("activation: expected 'silu' or 'gelu_tanh', got '" + name + "'");
}

// Returns the number of documents.
inline int64_t require_cu_seqlens(const py::array& cu_seqlens, int64_t tokens) {
  require_dtype<int64_t>("cu_seqlens", cu_seqlens, "int64");
  require_layout("cu_seqlens", cu_seqlens, 1, 1);
  if (cu_seqlens.size() == 0) refuse("cu_seqlens", "at least one entry", cu_seqlens, "no documents is [0]");
  const auto* ends = static_cast<const int64_t*>(cu_seqlens.data());
  const int64_t documents = cu_seqlens.size() - 1;
  if (ends[0] != 0) {
    throw std::invalid_argument("cu_seqlens: expected 0 first, got " + std::to_string(ends[0]) + "; prepend 0");
  }
  for (int64_t d = 0; d < documents; ++d) {
    if (ends[d + 1] >= ends[d]) continue;
    throw std::invalid_argument("cu_seqlens: falls from " + std::to_string(ends[d]) + " to " +
                                std::to_string(ends[d + 1]) + " at entry " + std::to_string(d + 1) +
                                "; pass running sums of the documents' token counts");
  }
  if (ends[documents] != tokens) {
    throw std::invalid_argument("cu_seqlens: ends at " + std::to_string(ends[documents]) + ", but there are " +
                                std::to_string(tokens) + " tokens; the last entry is the number of rows");
  }
  return documents;
}

inline void require_impact(const py::array& impact, int64_t documents, int64_t columns) {
  require_dtype<float>("impact", impact, "float32");
  require_shape("impact", impact, {documents, columns});
  require_layout("impact", impact, 2, 2);
  require_writeable("impact", impact);
}

}  // namespace nagfast
