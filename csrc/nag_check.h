// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "nag_view.h"
#include "parallel.h"

namespace nagfast {

// Throws std::invalid_argument, naming the argument and the lowest document, unless every document holds indices below
// `neurons` or the sentinel throughout. O(documents * layers * k), at the speed of memory.
template <typename Index>
void require_documents(const char* name, const NagView<Index>& nags, int64_t neurons, int threads) {
  parallel_ranges(nags.documents, 256, threads, [&](int64_t first, int64_t last) {
    for (int64_t d = first; d < last; ++d) {
      if (nags.starts_with_sentinel(d)) {
        require_all_sentinel(nags, d, name);
        continue;
      }
      Index largest = 0;
      const int64_t runs = nags.dense() ? 1 : nags.layers;
      const int64_t length = nags.dense() ? nags.layers * nags.k : nags.k;
      for (int64_t run = 0; run < runs; ++run) {
        const Index* entries = nags.document(d) + run * nags.layer_stride;
        for (int64_t i = 0; i < length; ++i) largest = std::max(largest, entries[i]);
      }
      if (static_cast<int64_t>(largest) >= neurons) refuse_index(nags, d, neurons, name);
    }
  });
}

}  // namespace nagfast
