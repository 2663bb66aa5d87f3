// SPDX-License-Identifier: Apache-2.0
// NumPy arrays of NAGs, checked, as views.
#pragma once

#include <limits>
#include <string>

#include "arrays.h"
#include "nag_view.h"

namespace nagfast {

template <typename Index>
NagView<Index> view_nags(const py::array& nags) {
  return {static_cast<const Index*>(nags.data()), nags.shape(0),      nags.shape(1), nags.shape(2),
          stride_of(nags, 0),                     stride_of(nags, 1)};
}

// Returns whether they are uint16.
inline bool require_nags(const py::array& nags, int64_t neurons, const char* name = "nags") {
  const bool narrow = holds<uint16_t>(nags);
  if (!narrow) require_dtype<uint32_t>(name, nags, "uint16 or uint32");
  require_layout(name, nags, 3, 1);
  const int64_t limit = narrow ? std::numeric_limits<uint16_t>::max() : std::numeric_limits<uint32_t>::max();
  if (neurons > limit) {
    refuse(name, "uint32 for layers of " + std::to_string(neurons) + " neurons", nags,
           "the largest value is the sentinel and must not be a neuron");
  }
  if (nags.shape(1) == 0 || nags.shape(2) == 0) {
    refuse(name, "at least one layer and K >= 1", nags, "check the shape");
  }
  return narrow;
}

}  // namespace nagfast
