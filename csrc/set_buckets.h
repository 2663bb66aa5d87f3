// SPDX-License-Identifier: Apache-2.0
// The set of one document, laid out so that a vector of neurons is tested for membership without a table in memory.
//
// Each layer has a multiplier m; neuron c belongs to bucket (c * m mod 2^16) >> (16 - bits). slots[e][l] is a register
// of the e-th neuron of every bucket, looked up by a byte or word shuffle: c is a member if it equals the entry of
// its bucket at one of `depth` positions. Multipliers are tried until the fullest bucket is shallow: about 4 trials
// for 20 neurons in 8 buckets of 4.
#pragma once

#include <cstdint>
#include <vector>

namespace nagfast {

constexpr int64_t kBucketLanes = 8;  // multipliers are repeated to fill a half register

// What the vector code reads; not owned.
struct BucketView {
  int64_t depth;                // positions in use, of all layers together
  int64_t stride;               // from one position of a layer to its next, in slots
  const uint16_t* slots;        // [depth][layers + 1][1 << bits]; empty ones hold the sentinel
  const uint16_t* multipliers;  // [layers + 1][kBucketLanes]
};

// The layer after the last is empty, so that layers can be taken two at a time.
struct SetBuckets {
  int bits;
  int64_t layers;
  int64_t depth;
  std::vector<uint16_t> slots;
  std::vector<uint16_t> multipliers;

  int64_t stride() const { return (layers + 1) << bits; }
  BucketView view() const { return {depth, stride(), slots.data(), multipliers.data()}; }
};

// Fills `buckets` (bits and layers are set) from layers * k neurons at `document`, layer_stride apart. A neuron that
// occurs twice in a layer is entered once. No neuron is the sentinel. O(layers * k), a few microseconds.
void build_buckets(const uint16_t* document, int64_t layer_stride, int64_t k, SetBuckets& buckets);

}  // namespace nagfast
