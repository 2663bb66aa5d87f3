// SPDX-License-Identifier: Apache-2.0
#include "inverted_lists.h"

#include <vector>

#include "nag_check.h"

namespace nagfast {
namespace {

// Calls visit(number of the (layer, neuron) pair) for each entry of a document that has a NAG.
template <typename Index, typename Visit>
void each_entry(const NagView<Index>& nags, int64_t neurons, int64_t document, const Visit& visit) {
  if (nags.starts_with_sentinel(document)) return;
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* indices = nags.document(document) + l * nags.layer_stride;
    for (int64_t i = 0; i < nags.k; ++i) visit(static_cast<size_t>(l * neurons + indices[i]));
  }
}

}  // namespace

template <typename Index>
void inverted_lists_search(const NagView<Index>& targets, int64_t neurons, const NagView<Index>& queries,
                           const NearestResults& results) {
  require_documents("nags", targets, neurons, 1);
  require_documents("queries", queries, neurons, 1);
  // Counted two places up, so that filling moves each start into its place.
  std::vector<int64_t> starts(static_cast<size_t>(targets.layers * neurons + 2), 0);
  for (int64_t d = 0; d < targets.documents; ++d) each_entry(targets, neurons, d, [&](size_t j) { ++starts[j + 2]; });
  for (size_t j = 2; j < starts.size(); ++j) starts[j] += starts[j - 1];
  std::vector<uint32_t> lists(static_cast<size_t>(starts.back()));
  for (int64_t d = 0; d < targets.documents; ++d) {
    each_entry(targets, neurons, d,
               [&](size_t j) { lists[static_cast<size_t>(starts[j + 1]++)] = static_cast<uint32_t>(d); });
  }
  std::vector<uint16_t> shared(static_cast<size_t>(targets.documents));
  std::vector<NearestKey> keys(static_cast<size_t>(results.k));
  for (int64_t query = 0; query < queries.documents; ++query) {
    std::fill(shared.begin(), shared.end(), uint16_t{0});
    each_entry(queries, neurons, query, [&](size_t j) {
      for (int64_t i = starts[j]; i < starts[j + 1]; ++i) ++shared[lists[static_cast<size_t>(i)]];
    });
    NearestHeap heap{keys.data(), results.k};
    heap.read(results, query);
    for (size_t d = 0; d < shared.size(); ++d) {
      if (shared[d] < count_of(heap.worst())) continue;
      const NearestKey key = nearest_key(shared[d], static_cast<int64_t>(d));
      if (key > heap.worst()) heap.replace_worst(key);
    }
    heap.write(results, query);
  }
}

template void inverted_lists_search(const NagView<uint16_t>&, int64_t, const NagView<uint16_t>&,
                                    const NearestResults&);
template void inverted_lists_search(const NagView<uint32_t>&, int64_t, const NagView<uint32_t>&,
                                    const NearestResults&);

}  // namespace nagfast
