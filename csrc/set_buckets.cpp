// SPDX-License-Identifier: Apache-2.0
#include "set_buckets.h"

#include <algorithm>
#include <limits>

namespace nagfast {
namespace {

constexpr int kTrials = 64;
constexpr int kMaxBuckets = 32;

int bucket_of(uint16_t neuron, uint16_t multiplier, int bits) {
  return static_cast<uint16_t>(unsigned{neuron} * multiplier) >> (16 - bits);  // two uint16_t overflow an int
}

// Odd multipliers, spread over the range: a fixed sequence, so that equal sets have equal layouts.
uint16_t multiplier_of(int trial) { return static_cast<uint16_t>((0x9E37u + 0x6A4Eu * static_cast<unsigned>(trial)) | 1u); }

int64_t fullest(const uint16_t* row, int64_t k, uint16_t multiplier, int bits) {
  int64_t counts[kMaxBuckets] = {};
  int64_t most = 0;
  for (int64_t i = 0; i < k; ++i) most = std::max(most, ++counts[bucket_of(row[i], multiplier, bits)]);
  return most;
}

// The first multiplier that gives `aim` or less, else the best of the trials.
uint16_t choose_multiplier(const uint16_t* row, int64_t k, int bits, int64_t aim) {
  uint16_t best = 1;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int trial = 0; trial < kTrials && least > aim; ++trial) {
    const int64_t most = fullest(row, k, multiplier_of(trial), bits);
    if (most < least) {
      least = most;
      best = multiplier_of(trial);
    }
  }
  return best;
}

void enter_layer(const uint16_t* row, int64_t k, int64_t layer, SetBuckets& buckets) {
  const int64_t width = int64_t{1} << buckets.bits;
  int64_t counts[kMaxBuckets] = {};
  for (int64_t i = 0; i < k; ++i) {
    const int bucket = bucket_of(row[i], buckets.multipliers[static_cast<size_t>(layer * kBucketLanes)], buckets.bits);
    uint16_t* slot = buckets.slots.data() + layer * width + bucket;
    int64_t e = 0;
    while (e < counts[bucket] && slot[e * buckets.stride()] != row[i]) ++e;
    if (e < counts[bucket]) continue;  // entered before
    slot[e * buckets.stride()] = row[i];
    ++counts[bucket];
  }
}

}  // namespace

void build_buckets(const uint16_t* document, int64_t layer_stride, int64_t k, SetBuckets& buckets) {
  // A third above the mean is soon found, and one more position costs less than many trials.
  const int64_t mean = (k + (1 << buckets.bits) - 1) >> buckets.bits;
  const int64_t aim = mean + (mean + 2) / 3;
  buckets.multipliers.assign(static_cast<size_t>((buckets.layers + 1) * kBucketLanes), 1);
  buckets.depth = aim;
  for (int64_t l = 0; l < buckets.layers; ++l) {
    const uint16_t* row = document + l * layer_stride;
    const uint16_t multiplier = choose_multiplier(row, k, buckets.bits, aim);
    std::fill_n(buckets.multipliers.data() + l * kBucketLanes, kBucketLanes, multiplier);
    buckets.depth = std::max(buckets.depth, fullest(row, k, multiplier, buckets.bits));
  }
  buckets.slots.assign(static_cast<size_t>(buckets.depth * buckets.stride()), std::numeric_limits<uint16_t>::max());
  for (int64_t l = 0; l < buckets.layers; ++l) enter_layer(document + l * layer_stride, k, l, buckets);
}

}  // namespace nagfast
