// SPDX-License-Identifier: Apache-2.0
// The set of one document as vectors of 16 numbers, for the instruction that compares all of one vector with all of
// another (VP2INTERSECT).
//
// An entry is its layer above its neuron, so that entries of different layers differ and the rows of a document may be
// cut into vectors wherever they fall: 35 vectors for 28 layers of 20, each of which meets the three that hold the
// same layers.
#pragma once

#include <cstdint>
#include <vector>

namespace nagfast {

constexpr int64_t kSetLanes = 16;

struct alignas(64) SetVector {
  uint32_t lanes[kSetLanes];
};

// What the vector code reads; not owned.
struct SetVectorView {
  const SetVector* entries;  // of the set; lanes without one equal no entry
  const SetVector* layers;   // [vectors]: what to add to the entries of the other document
  const int32_t* first;      // [vectors]: the first of the set's vectors that each of the other document meets
  int64_t met;               // how many, the same for all
};

// A set of `set_k` neurons a layer, for documents of `k`. Both times layers below 2^15.
class SetVectors {
 public:
  SetVectors(int64_t layers, int64_t set_k, int64_t k);

  // layers * set_k neurons at `document`, layer_stride apart, none of them the sentinel. O(layers * set_k).
  void enter(const uint16_t* document, int64_t layer_stride);
  // The empty set.
  void clear();

  SetVectorView view() const;

 private:
  int64_t layer_count_;
  int64_t set_k_;
  std::vector<SetVector> entries_;
  std::vector<SetVector> layers_;
  std::vector<int32_t> first_;
  int64_t met_ = 0;
};

}  // namespace nagfast
