// SPDX-License-Identifier: Apache-2.0
#include "minhash.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "parallel.h"

namespace nagfast {
namespace {

constexpr int64_t kGrainDocuments = 16;

const MinhashKernels& kernels_of(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kMinhashScalar;
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return kMinhashAvx2;
    case Isa::kAvx512:
      return kMinhashAvx512;
#endif
    default:
      throw std::logic_error("minhash: no code for this instruction set in this build");
  }
}

// Fills `elements` with those of document d, the last one repeated; returns false where it has no NAG.
template <typename Index>
bool read_elements(const MinhashTask<Index>& task, int64_t d, std::vector<uint32_t>& elements) {
  const NagView<Index>& nags = task.nags;
  if (nags.starts_with_sentinel(d)) {
    require_all_sentinel(nags, d);
    return false;
  }
  // The sign says whether one was out of range: a subtraction, unlike a comparison of 16 bits, is one for every vector.
  using Wide = std::conditional_t<sizeof(Index) == 2, int32_t, int64_t>;
  const Wide limit = static_cast<Wide>(std::min<int64_t>(task.neurons - 1, nags.kSentinel));
  Wide beyond = 0;
  uint32_t* at = elements.data();
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* row = nags.document(d) + l * nags.layer_stride;
    const uint32_t base = static_cast<uint32_t>(l * task.neurons);
    for (int64_t i = 0; i < nags.k; ++i) {
      beyond |= limit - static_cast<Wide>(row[i]);
      at[i] = base + row[i];
    }
    at += nags.k;
  }
  if (beyond < 0) refuse_index(nags, d, task.neurons);
  std::fill(at, elements.data() + elements.size(), at[-1]);
  return true;
}

template <typename Index>
void minhash_range(const MinhashTask<Index>& task, const MinhashKernels& kernels, int64_t first, int64_t last) {
  const int64_t n = (task.nags.layers * task.nags.k + kMinhashPad - 1) / kMinhashPad * kMinhashPad;
  std::vector<uint32_t> elements(static_cast<size_t>(n));
  for (int64_t d = first; d < last; ++d) {
    uint32_t* out = task.out + d * task.permutations;
    if (!read_elements(task, d, elements)) {
      std::fill(out, out + task.permutations, ~uint32_t{0});
      continue;
    }
    kernels.mix(elements.data(), n);
    kernels.least(elements.data(), n, task.a, task.b, task.permutations, out);
  }
}

}  // namespace

template <typename Index>
void minhash(const MinhashTask<Index>& task, int threads, Isa isa) {
  const MinhashKernels& kernels = kernels_of(isa);
  parallel_ranges(task.nags.documents, kGrainDocuments, threads,
                  [&](int64_t first, int64_t last) { minhash_range(task, kernels, first, last); });
}

template void minhash(const MinhashTask<uint16_t>&, int, Isa);
template void minhash(const MinhashTask<uint32_t>&, int, Isa);

}  // namespace nagfast
