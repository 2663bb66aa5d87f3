// SPDX-License-Identifier: Apache-2.0
#include "count_sketch.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"

namespace nagfast {
namespace {

uint64_t hash(uint64_t h, uint64_t seed) {
  uint64_t x = h + (seed + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Where a neuron goes, and what it adds there.
struct Term {
  uint32_t bucket;
  float value;
};

template <typename Index>
std::vector<Term> make_terms(const SketchTask<Index>& task) {
  std::vector<Term> terms(static_cast<size_t>(task.nags.layers * task.neurons));
  for (size_t h = 0; h < terms.size(); ++h) {
    const uint64_t x = hash(h, task.seed);
    terms[h] = {static_cast<uint32_t>(x & static_cast<uint64_t>(task.dimensions - 1)),
                x >> 63 ? -task.weights[h] : task.weights[h]};
  }
  return terms;
}

void write_normalised(const std::vector<double>& sums, float* out) {
  double square = 0;
  for (const double sum : sums) square += sum * sum;
  const double norm = std::sqrt(square);
  for (size_t i = 0; i < sums.size(); ++i) out[i] = norm > 0 ? static_cast<float>(sums[i] / norm) : 0.0f;
}

template <typename Index>
void sketch_document(const SketchTask<Index>& task, const std::vector<Term>& terms, int64_t d,
                     std::vector<double>& sums) {
  const NagView<Index>& nags = task.nags;
  std::fill(sums.begin(), sums.end(), 0.0);
  if (nags.starts_with_sentinel(d)) {
    require_all_sentinel(nags, d);
    return;
  }
  for (int64_t l = 0; l < nags.layers; ++l) {
    const Index* row = nags.document(d) + l * nags.layer_stride;
    for (int64_t i = 0; i < nags.k; ++i) {
      if (static_cast<int64_t>(row[i]) >= task.neurons) refuse_index(nags, d, task.neurons);
      const Term& term = terms[static_cast<size_t>(l * task.neurons + row[i])];
      sums[term.bucket] += term.value;
    }
  }
}

}  // namespace

template <typename Index>
void count_sketch(const SketchTask<Index>& task, int threads) {
  const std::vector<Term> terms = make_terms(task);
  parallel_ranges(task.nags.documents, 64, threads, [&](int64_t first, int64_t last) {
    std::vector<double> sums(static_cast<size_t>(task.dimensions));
    for (int64_t d = first; d < last; ++d) {
      sketch_document(task, terms, d, sums);
      write_normalised(sums, task.out + d * task.dimensions);
    }
  });
}

template void count_sketch(const SketchTask<uint16_t>&, int);
template void count_sketch(const SketchTask<uint32_t>&, int);

}  // namespace nagfast
