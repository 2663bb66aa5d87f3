// SPDX-License-Identifier: Apache-2.0
// The usual exact search, which benchmarks time the bit rows against: for each (layer, neuron) the list of the targets
// that hold it; a query counts up every target in the lists of its neurons and takes the k largest counts. The time of
// a query is that of its neurons' lists, so popular neurons are expensive. One thread.
#pragma once

#include <cstdint>

#include "nag_view.h"
#include "nearest.h"

namespace nagfast {

// Merges every target, under its row, into the results of each query; the same results as BitTargets::search. Builds
// the lists first: O(targets * layers * k). Throws std::invalid_argument as score does, before anything is written.
template <typename Index>
void inverted_lists_search(const NagView<Index>& targets, int64_t neurons, const NagView<Index>& queries,
                           const NearestResults& results);

}  // namespace nagfast
