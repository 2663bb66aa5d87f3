// SPDX-License-Identifier: Apache-2.0
#include "prototypes.h"

#include <algorithm>
#include <vector>

#include "nag_check.h"
#include "parallel.h"

namespace nagfast {
namespace {

// The documents of each cluster that have a NAG, in order: starts [clusters + 1] into documents.
struct Members {
  std::vector<int64_t> starts;
  std::vector<int64_t> documents;
};

template <typename Index>
Members members_of(const PrototypeTask<Index>& task) {
  Members members;
  const auto each = [&](const auto& visit) {
    for (int64_t d = 0; d < task.nags.documents; ++d) {
      if (task.assignment[d] < 0 || task.nags.starts_with_sentinel(d)) continue;
      visit(d, static_cast<size_t>(task.assignment[d]));
    }
  };
  // Counted one further up than they are read, so that filling moves each start into its place.
  members.starts.assign(static_cast<size_t>(task.clusters + 2), 0);
  each([&](int64_t, size_t cluster) { ++members.starts[cluster + 2]; });
  for (size_t c = 2; c < members.starts.size(); ++c) members.starts[c] += members.starts[c - 1];
  members.documents.resize(static_cast<size_t>(members.starts.back()));
  each([&](int64_t d, size_t cluster) { members.documents[static_cast<size_t>(members.starts[cluster + 1]++)] = d; });
  return members;
}

// Counts the neurons of one cluster and layer at a time. Only neurons that occur are visited: a cluster holds few of
// all there are.
class LayerCounter {
 public:
  explicit LayerCounter(int64_t neurons) : counts_(static_cast<size_t>(neurons), 0) {}

  template <typename Index>
  void add(const Index* indices, int64_t k) {
    for (int64_t i = 0; i < k; ++i) {
      if (counts_[indices[i]]++ == 0) seen_.push_back(indices[i]);
    }
  }

  // Writes the k most frequent neurons and forgets all.
  template <typename Index>
  void take(int64_t k, Index* out) {
    const auto before = [this](uint32_t a, uint32_t b) {
      return counts_[a] != counts_[b] ? counts_[a] > counts_[b] : a < b;
    };
    const int64_t taken = std::min(k, static_cast<int64_t>(seen_.size()));
    std::partial_sort(seen_.begin(), seen_.begin() + taken, seen_.end(), before);
    std::copy(seen_.begin(), seen_.begin() + taken, out);
    // Neurons that no document holds all tie.
    int64_t filled = taken;
    for (uint32_t neuron = 0; filled < k; ++neuron) {
      if (counts_[neuron] == 0) out[filled++] = static_cast<Index>(neuron);
    }
    for (const uint32_t neuron : seen_) counts_[neuron] = 0;
    seen_.clear();
  }

 private:
  std::vector<uint32_t> counts_;  // [neurons]
  std::vector<uint32_t> seen_;    // those with a count
};

}  // namespace

template <typename Index>
void prototypes(const PrototypeTask<Index>& task, int threads) {
  const NagView<Index>& nags = task.nags;
  require_documents("nags", nags, task.neurons, threads);
  const Members members = members_of(task);
  parallel_ranges(task.clusters, 1, threads, [&](int64_t first, int64_t last) {
    LayerCounter counter(task.neurons);
    for (int64_t c = first; c < last; ++c) {
      Index* out = task.out + c * nags.layers * task.k;
      const int64_t start = members.starts[static_cast<size_t>(c)];
      const int64_t end = members.starts[static_cast<size_t>(c + 1)];
      if (start == end) {
        std::fill(out, out + nags.layers * task.k, nags.kSentinel);
        continue;
      }
      for (int64_t l = 0; l < nags.layers; ++l) {
        for (int64_t i = start; i < end; ++i) {
          counter.add(nags.document(members.documents[static_cast<size_t>(i)]) + l * nags.layer_stride, nags.k);
        }
        counter.take(task.k, out + l * task.k);
      }
    }
  });
}

template void prototypes(const PrototypeTask<uint16_t>&, int);
template void prototypes(const PrototypeTask<uint32_t>&, int);

}  // namespace nagfast
