// SPDX-License-Identifier: Apache-2.0
// out[c][l] = the k neurons that most documents of cluster c hold in layer l, most first, ties to the lower index.
#pragma once

#include <cstdint>

#include "nag_view.h"

namespace nagfast {

// Not owned.
template <typename Index>
struct PrototypeTask {
  NagView<Index> nags;
  int64_t neurons;
  const int32_t* assignment;  // [documents]: below `clusters`; -1 leaves a document out
  int64_t clusters;
  int64_t k;                  // at most `neurons`
  Index* out;                 // [clusters, layers, k], contiguous, written
};

// A cluster none of whose documents has a NAG gets the sentinel throughout. Throws std::invalid_argument naming the
// lowest document that holds an index out of range or a stray sentinel, before anything is written.
// O(documents * layers * k), plus sorting the best k of each cluster and layer.
template <typename Index>
void prototypes(const PrototypeTask<Index>& task, int threads);

}  // namespace nagfast
