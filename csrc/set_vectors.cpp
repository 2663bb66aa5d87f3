// SPDX-License-Identifier: Apache-2.0
#include "set_vectors.h"

#include <algorithm>

namespace nagfast {
namespace {

// No entry, and not the same on both sides: layers stay below 2^15.
constexpr uint32_t kNoEntry = 0xFFFFFFFF;
constexpr uint32_t kNoOther = 0xFFFF0000;

int64_t vectors_of(int64_t entries) { return (entries + kSetLanes - 1) / kSetLanes; }

SetVector filled(uint32_t value) {
  SetVector vector;
  std::fill_n(vector.lanes, kSetLanes, value);
  return vector;
}

}  // namespace

SetVectors::SetVectors(int64_t layers, int64_t set_k, int64_t k)
    : layer_count_(layers),
      set_k_(set_k),
      layers_(static_cast<size_t>(vectors_of(layers * k)), filled(kNoOther)) {
  const int64_t entries = layers * k;
  for (int64_t i = 0; i < entries; ++i) {
    layers_[static_cast<size_t>(i / kSetLanes)].lanes[i % kSetLanes] = static_cast<uint32_t>(i / k) << 16;
  }
  for (int64_t i = 0; i < entries; i += kSetLanes) {
    const int64_t low = i / k;
    const int64_t high = std::min(i + kSetLanes, entries) - 1;
    const int64_t first = low * set_k / kSetLanes;
    first_.push_back(static_cast<int32_t>(first));
    met_ = std::max(met_, vectors_of((high / k + 1) * set_k) - first);
  }
  // As many vectors are met from everywhere: behind the set there are some without an entry.
  entries_.assign(static_cast<size_t>(vectors_of(layers * set_k) + met_), filled(kNoEntry));
}

void SetVectors::enter(const uint16_t* document, int64_t layer_stride) {
  uint32_t* to = entries_.data()->lanes;
  for (int64_t l = 0; l < layer_count_; ++l, document += layer_stride, to += set_k_) {
    for (int64_t i = 0; i < set_k_; ++i) to[i] = static_cast<uint32_t>(l) << 16 | document[i];
  }
}

void SetVectors::clear() { std::fill(entries_.begin(), entries_.end(), filled(kNoEntry)); }

SetVectorView SetVectors::view() const {
  return {entries_.data(), layers_.data(), first_.data(), met_};
}

}  // namespace nagfast
