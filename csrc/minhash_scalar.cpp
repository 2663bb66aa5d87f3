// SPDX-License-Identifier: Apache-2.0
#include "minhash.h"

namespace nagfast {
namespace {

void mix(uint32_t* h, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t x = h[i];
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    h[i] = x ^ (x >> 16);
  }
}

void least(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, int64_t count, uint32_t* out) {
  for (int64_t k = 0; k < count; ++k) {
    uint32_t best = ~uint32_t{0};
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t value = a[k] * mixed[i] + b[k];
      best = value < best ? value : best;
    }
    out[k] = best;
  }
}

}  // namespace

const MinhashKernels kMinhashScalar{&mix, &least};

}  // namespace nagfast
