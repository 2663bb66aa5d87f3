// SPDX-License-Identifier: Apache-2.0
#include "rotary.h"

#include <cmath>

#include "parallel.h"

namespace nagfast {
namespace {

constexpr int64_t kTokensPerShare = 16;
constexpr int kLanes = 8;  // independent sums that the compiler can keep in vector registers

float sum_of_squares(const float* x, int64_t dim) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
  }
  float rest = 0.0f;
  for (; i < dim; ++i) rest += x[i] * x[i];
  for (const float lane : lanes) rest += lane;
  return rest;
}

void normalise(float* x, const RotaryBatch& batch) {
  const float mean = sum_of_squares(x, batch.dim) / static_cast<float>(batch.dim);
  const float scale = 1.0f / std::sqrt(mean + batch.eps);
  for (int64_t i = 0; i < batch.dim; ++i) x[i] = x[i] * scale * batch.weight[i];
}

void rotate(float* __restrict low, float* __restrict high, const float* __restrict cos, const float* __restrict sin,
            int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = low[i];
    const float b = high[i];
    low[i] = a * cos[i] - b * sin[i];
    high[i] = b * cos[i + half] + a * sin[i + half];
  }
}

}  // namespace

void norm_rotary(const RotaryBatch& batch, int threads) {
  const int64_t half = batch.dim / 2;
  parallel_ranges(batch.tokens, kTokensPerShare, threads, [&](int64_t first, int64_t last) {
    for (int64_t token = first; token < last; ++token) {
      for (int64_t head = 0; head < batch.heads; ++head) {
        float* x = batch.x + token * batch.row_stride + head * batch.dim;
        if (batch.weight != nullptr) normalise(x, batch);
        rotate(x, x + half, batch.cos + token * batch.dim, batch.sin + token * batch.dim, half);
      }
    }
  });
}

}  // namespace nagfast
