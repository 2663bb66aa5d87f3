// SPDX-License-Identifier: Apache-2.0
#include "score.h"

namespace nagfast {
namespace {

template <typename Index>
bool in_range(const NagView<Index>& nags, int64_t d, int64_t neurons) {
  Index largest = 0;
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* row = nags.document(d) + l * nags.layer_stride;
    for (int64_t i = 0; i < nags.k; ++i) largest = row[i] > largest ? row[i] : largest;
  }
  return static_cast<int64_t>(largest) < neurons;
}

}  // namespace

template <typename Index, typename Count>
void score_scalar(const ScoreTask<Index, Count>& task, int64_t first, int64_t last) {
  const NagView<Index>& nags = task.nags;
  for (int64_t d = first; d < last; ++d) {
    int64_t* out = task.out + d * task.profiles;
    for (int64_t p = 0; p < task.profiles; ++p) out[p] = 0;
    if (nags.starts_with_sentinel(d)) {
      require_all_sentinel(nags, d);
      continue;
    }
    if (!in_range(nags, d, task.neurons)) refuse_index(nags, d, task.neurons);
    int64_t single = 0;
    for (int64_t l = 0; l < nags.layers; ++l) {
      const Index* row = nags.document(d) + l * nags.layer_stride;
      const Count* table = task.table + l * task.neurons * task.profiles;
      if (task.profiles == 1) {
        for (int64_t i = 0; i < nags.k; ++i) single += table[row[i]];
        continue;
      }
      for (int64_t i = 0; i < nags.k; ++i) {
        const Count* counts = table + row[i] * task.profiles;
        for (int64_t p = 0; p < task.profiles; ++p) out[p] += counts[p];
      }
    }
    if (task.profiles == 1) *out = single;
  }
}

template void score_scalar(const ScoreTask<uint16_t, uint16_t>&, int64_t, int64_t);
template void score_scalar(const ScoreTask<uint16_t, uint32_t>&, int64_t, int64_t);
template void score_scalar(const ScoreTask<uint32_t, uint16_t>&, int64_t, int64_t);
template void score_scalar(const ScoreTask<uint32_t, uint32_t>&, int64_t, int64_t);

}  // namespace nagfast
