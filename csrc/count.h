// SPDX-License-Identifier: Apache-2.0
// counts[l][i] += the number of documents whose layer l holds neuron i.
#pragma once

#include <cstdint>

#include "nag_view.h"

namespace nagfast {

// Adds to counts (int64 [layers, neurons], contiguous, not owned) and returns the number of documents that have a NAG.
// Throws std::invalid_argument, before anything is added, naming the lowest document that holds an index out of range,
// a stray sentinel, or a neuron twice in one layer. O(documents * layers * k), plus 4 bytes a neuron and thread.
template <typename Index>
int64_t count(const NagView<Index>& nags, int64_t neurons, int64_t* counts, int threads);

}  // namespace nagfast
