// SPDX-License-Identifier: Apache-2.0
// Count sketch of NAGs: out[d] = s / |s| with s[bucket(l, i)] += sign(l, i) * weight[l][i] over the document's neurons.
// The scalar product of two sketches estimates the cosine of the two weighted sets without bias.
//
// One 64-bit hash of h = layer * N + neuron gives both (multiplications and shifts mod 2^64, the finish of SplitMix64):
//   x = h + (seed + 1) * 0x9E3779B97F4A7C15
//   x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9,  x = (x ^ x >> 27) * 0x94D049BB133111EB,  x = x ^ x >> 31
//   bucket = x mod dimensions, sign = -1 if the highest bit of x is set, else 1
// Summed in float64 in the order of the entries and rounded once, so that threads do not show.
#pragma once

#include <cstdint>

#include "nag_view.h"

namespace nagfast {

// Not owned.
template <typename Index>
struct SketchTask {
  NagView<Index> nags;
  const float* weights;  // [layers, neurons], contiguous
  int64_t neurons;
  int64_t dimensions;    // a power of two
  uint64_t seed;
  float* out;            // [documents, dimensions], contiguous, written; zero without a NAG or where all cancels
};

// Throws std::invalid_argument naming the lowest document that holds an index out of range or a stray sentinel; `out`
// may then be partly written. O(documents * layers * k), plus 8 bytes a neuron and layer.
template <typename Index>
void count_sketch(const SketchTask<Index>& task, int threads);

}  // namespace nagfast
