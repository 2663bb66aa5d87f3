// SPDX-License-Identifier: Apache-2.0
// Norms over rows of tokens on the lanes of one instruction set. Included by the norms_*.cpp files only, after one
// simd_*.h.
#pragma once

#include "norms.h"

namespace nagfast {
namespace {

constexpr int kSums = kNormLanes / Lanes::kWidth;
static_assert(kNormLanes % Lanes::kWidth == 0, "an element's lane must not depend on the width");

// Element i belongs to lane i % kNormLanes.
struct Squares {
  Lanes::Float sums[kSums];

  Squares() {
    for (int s = 0; s < kSums; ++s) sums[s] = Lanes::splat(0.0f);
  }
  void add(int s, Lanes::Float x) { sums[s] = Lanes::add(sums[s], Lanes::mul(x, x)); }
  float total() const {
    float lanes[kNormLanes];
    for (int s = 0; s < kSums; ++s) Lanes::store(lanes + s * Lanes::kWidth, sums[s]);
    for (int half = kNormLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0];
  }
};

Lanes::Float scale_of(const Squares& squares, int64_t count, float eps) {
  const float mean = squares.total() / static_cast<float>(count);
  return Lanes::div(Lanes::splat(1.0f), Lanes::sqrt(Lanes::splat(mean + eps)));
}

// Calls visit(first, lane, count) for each vector of [0, size), count < kWidth in the last one where it is cut short.
template <typename Visit>
void for_each_vector(int64_t size, const Visit& visit) {
  int64_t i = 0;
  for (; i + kNormLanes <= size; i += kNormLanes) {
    for (int s = 0; s < kSums; ++s) visit(i + s * Lanes::kWidth, s, Lanes::kWidth);
  }
  for (int s = 0; i < size; i += Lanes::kWidth, ++s) {
    visit(i, s, static_cast<int>(size - i < Lanes::kWidth ? size - i : Lanes::kWidth));
  }
}

// The lanes beyond `count` are 0.
template <typename Scalar>
Lanes::Float load_up_to(const Scalar* p, int count) {
  return count == Lanes::kWidth ? Lanes::load(p) : Lanes::load_some(p, count);
}

template <typename Scalar>
void store_up_to(Scalar* p, Lanes::Float x, int count) {
  x = Lanes::canonical_nan(x);
  count == Lanes::kWidth ? Lanes::store(p, x) : Lanes::store_some(p, x, count);
}

template <typename Scalar>
void norm_row(const Scalar* x, Scalar* residual, Scalar* out, int64_t columns, const float* weight, float eps) {
  Squares squares;
  for_each_vector(columns, [&](int64_t i, int s, int count) {
    Lanes::Float value = load_up_to(x + i, count);
    if (residual != nullptr) {
      store_up_to(residual + i, Lanes::add(load_up_to(residual + i, count), value), count);
      value = load_up_to(residual + i, count);  // as it was rounded
    }
    squares.add(s, value);
  });
  const Lanes::Float scale = scale_of(squares, columns, eps);
  const Scalar* normed = residual != nullptr ? residual : x;
  for_each_vector(columns, [&](int64_t i, int, int count) {
    const Lanes::Float value = Lanes::mul(load_up_to(normed + i, count), scale);
    store_up_to(out + i, Lanes::mul(value, load_up_to(weight + i, count)), count);
  });
}

template <typename Scalar>
void norm_rows(const AddNormBatch<Scalar>& batch, int64_t first, int64_t last) {
  for (int64_t token = first; token < last; ++token) {
    Scalar* residual = batch.residual == nullptr ? nullptr : batch.residual + token * batch.residual_stride;
    norm_row(batch.x + token * batch.x_stride, residual, batch.out + token * batch.out_stride, batch.columns,
             batch.weight, batch.eps);
  }
}

// x * scale * weight, or x without a weight.
template <typename Scalar>
Lanes::Float normed(const Scalar* x, const float* weight, Lanes::Float scale, int64_t i, int count) {
  const Lanes::Float value = load_up_to(x + i, count);
  return weight == nullptr ? value : Lanes::mul(Lanes::mul(value, scale), load_up_to(weight + i, count));
}

template <typename Scalar>
void rotary_head(Scalar* x, const RotaryBatch<Scalar>& batch, const float* cos, const float* sin) {
  Lanes::Float scale = Lanes::splat(1.0f);
  if (batch.weight != nullptr) {
    Squares squares;
    for_each_vector(batch.dim, [&](int64_t i, int s, int count) { squares.add(s, load_up_to(x + i, count)); });
    scale = scale_of(squares, batch.dim, batch.eps);
  }
  if (cos == nullptr) {
    for_each_vector(batch.dim, [&](int64_t i, int, int count) {
      store_up_to(x + i, normed(x, batch.weight, scale, i, count), count);
    });
    return;
  }
  const int64_t half = batch.dim / 2;
  for_each_vector(half, [&](int64_t i, int, int count) {
    const Lanes::Float low = normed(x, batch.weight, scale, i, count);
    const Lanes::Float high = normed(x, batch.weight, scale, i + half, count);
    const Lanes::Float low_turned = Lanes::sub(Lanes::mul(low, load_up_to(cos + i, count)),
                                               Lanes::mul(high, load_up_to(sin + i, count)));
    const Lanes::Float high_turned = Lanes::add(Lanes::mul(high, load_up_to(cos + i + half, count)),
                                                Lanes::mul(low, load_up_to(sin + i + half, count)));
    store_up_to(x + i, low_turned, count);
    store_up_to(x + i + half, high_turned, count);
  });
}

template <typename Scalar>
void rotary_rows(const RotaryBatch<Scalar>& batch, int64_t first, int64_t last) {
  for (int64_t token = first; token < last; ++token) {
    const float* cos = batch.cos == nullptr ? nullptr : batch.cos + token * batch.dim;
    const float* sin = batch.sin == nullptr ? nullptr : batch.sin + token * batch.dim;
    for (int64_t head = 0; head < batch.heads; ++head) {
      rotary_head(batch.x + token * batch.row_stride + head * batch.dim, batch, cos, sin);
    }
  }
}

}  // namespace
}  // namespace nagfast
