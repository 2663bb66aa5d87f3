// SPDX-License-Identifier: Apache-2.0
#include "score.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace nagfast {
namespace {

#if defined(NAGFAST_X86)

struct Avx2 {
  template <typename Index>
  static Index largest(const Index* entries, int64_t n) {
    return largest_avx2(entries, n);
  }
  template <typename Layer>
  static void add_layer(const Layer& layer) {
    add_layer_avx2(layer);
  }
};

struct Avx512 {
  template <typename Index>
  static Index largest(const Index* entries, int64_t n) {
    return largest_avx512(entries, n);
  }
  template <typename Layer>
  static void add_layer(const Layer& layer) {
    add_layer_avx512(layer);
  }
};

template <typename Set, typename Index>
bool in_range(const NagView<Index>& nags, int64_t d, int64_t neurons) {
  const Index* document = nags.document(d);
  Index largest = 0;
  if (nags.dense()) {
    largest = Set::largest(document, nags.layers * nags.k);
  } else {
    for (int64_t l = 0; l < nags.layers; ++l) {
      largest = std::max(largest, Set::largest(document + l * nags.layer_stride, nags.k));
    }
  }
  return static_cast<int64_t>(largest) < neurons;
}

// Documents [first, last), layer by layer; those without a NAG are left out. rows: room for them and kScoreAhead more.
template <typename Set, typename Index, typename Count>
void score_block(const ScoreTask<Index, Count>& task, int64_t first, int64_t last, ScoreRow<Index>* rows) {
  const NagView<Index>& nags = task.nags;
  int64_t count = 0;
  std::fill(task.out + first * task.profiles, task.out + last * task.profiles, int64_t{0});
  for (int64_t d = first; d < last; ++d) {
    if (nags.starts_with_sentinel(d)) {
      require_all_sentinel(nags, d);
      continue;
    }
    if (!in_range<Set>(nags, d, task.neurons)) refuse_index(nags, d, task.neurons);
    rows[count++] = {nags.document(d), task.out + d * task.profiles};
  }
  if (count == 0) return;
  std::fill(rows + count, rows + count + kScoreAhead, rows[count - 1]);
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Count* table = task.table + l * task.neurons * task.profiles;
    const uintptr_t ahead = reinterpret_cast<uintptr_t>(nags.document(first)) +
                            static_cast<uintptr_t>((last - first) * nags.document_stride) * sizeof(Index) +
                            static_cast<uintptr_t>(64 * l * count);
    Set::add_layer(ScoreLayer<Index, Count>{rows, count, l * nags.layer_stride, nags.k, table, task.profiles, ahead});
  }
}

template <typename Set, typename Index, typename Count>
void score_blocks(const ScoreTask<Index, Count>& task, int64_t first, int64_t last) {
  const int64_t block = score_block_documents(task.profiles);
  std::vector<ScoreRow<Index>> rows(static_cast<size_t>(block + kScoreAhead));
  for (int64_t d = first; d < last; d += block) score_block<Set>(task, d, std::min(last, d + block), rows.data());
}

#endif

}  // namespace

template <typename Index, typename Count>
void score(const ScoreTask<Index, Count>& task, int threads, Isa isa) {
  parallel_ranges(task.nags.documents, score_block_documents(task.profiles), threads, [&](int64_t first, int64_t last) {
    switch (isa) {
#if defined(NAGFAST_X86)
      case Isa::kAvx2:
        return score_blocks<Avx2>(task, first, last);
      case Isa::kAvx512:
        return score_blocks<Avx512>(task, first, last);
#endif
      default:
        return score_scalar(task, first, last);
    }
  });
}

template void score(const ScoreTask<uint16_t, uint16_t>&, int, Isa);
template void score(const ScoreTask<uint16_t, uint32_t>&, int, Isa);
template void score(const ScoreTask<uint32_t, uint16_t>&, int, Isa);
template void score(const ScoreTask<uint32_t, uint32_t>&, int, Isa);

}  // namespace nagfast
