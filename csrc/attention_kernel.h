// SPDX-License-Identifier: Apache-2.0
// Attention of one group of heads in one document on the lanes of one instruction set. Included by the attention_*.cpp
// files only, after one simd_*.h.
#pragma once

#include <cstring>

#include "attention.h"
#include "exp.h"

namespace nagfast {
namespace {

constexpr int kRows = static_cast<int>(kAttentionRows);
constexpr int kVectors = Lanes::kWidth == 16 ? 4 : 2;  // kRows * kVectors sums fit the registers
constexpr int64_t kStrip = kVectors * Lanes::kWidth;
static_assert(kAttentionPad % kStrip == 0, "memory is padded to whole strips");

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

float as_float(float x) { return x; }
float as_float(uint16_t x) {
  const uint32_t word = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Keys to [strip][dim][kStrip]: token j is lane j % kStrip of strip j / kStrip. The lanes past the end are 0.
template <typename Scalar>
void pack_keys(const Scalar* key, int64_t stride, int64_t tokens, int64_t dim, float* packed) {
  for (int64_t strip = 0; strip < tokens; strip += kStrip) {
    float* at = packed + strip * dim;
    const int64_t count = smaller(kStrip, tokens - strip);
    for (int64_t j = 0; j < count; ++j) {
      const Scalar* row = key + (strip + j) * stride;
      for (int64_t c = 0; c < dim; ++c) at[c * kStrip + j] = as_float(row[c]);
    }
    for (int64_t c = 0; c < dim; ++c) {
      for (int64_t j = count; j < kStrip; ++j) at[c * kStrip + j] = 0.0f;
    }
  }
}

// Values to [strip of columns][tokens][kStrip], the columns past the end 0.
template <typename Scalar>
void pack_values(const Scalar* value, int64_t stride, int64_t tokens, int64_t columns, float* packed) {
  for (int64_t strip = 0; strip < columns; strip += kStrip) {
    const int64_t count = smaller(kStrip, columns - strip);
    for (int64_t j = 0; j < tokens; ++j, packed += kStrip) {
      const Scalar* row = value + j * stride + strip;
      for (int64_t c = 0; c < count; ++c) packed[c] = as_float(row[c]);
      for (int64_t c = count; c < kStrip; ++c) packed[c] = 0.0f;
    }
  }
}

// Up to kRows queries to [kRows][dim], missing ones 0.
template <typename Scalar>
void pack_queries(const Scalar* query, int64_t stride, int64_t rows, int64_t dim, float* packed) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < dim; ++c) packed[r * dim + c] = as_float(query[r * stride + c]);
  }
  for (int64_t i = rows * dim; i < kRows * dim; ++i) packed[i] = 0.0f;
}

// scores[r][0 .. kCount vectors) = queries[r] . keys[.][lane]
template <int kCount>
void score_strip(const float* queries, const float* keys, int64_t dim, float* scores, int64_t stride) {
  Lanes::Float sums[kRows][kCount];  // [6 queries][keys]
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kCount; ++v) sums[r][v] = Lanes::splat(0.0f);
  }
  for (int64_t c = 0; c < dim; ++c) {
    Lanes::Float key[kCount];
    for (int v = 0; v < kCount; ++v) key[v] = Lanes::load(keys + c * kStrip + v * Lanes::kWidth);
    for (int r = 0; r < kRows; ++r) {
      const Lanes::Float query = Lanes::splat(queries[r * dim + c]);
      for (int v = 0; v < kCount; ++v) sums[r][v] = Lanes::fma(query, key[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kCount; ++v) Lanes::store(scores + r * stride + v * Lanes::kWidth, sums[r][v]);
  }
}

// out[r][0 .. columns) = (sum over tokens of weights[r][token] * values[token][lane]) * inverse[r]
template <int kCount, typename Scalar>
void mix_strip(const float* weights, int64_t stride, int64_t first, int64_t last, const float* values,
               const float* inverse, Scalar* out, int64_t out_stride, int64_t rows, int64_t columns) {
  Lanes::Float sums[kRows][kCount];  // [6 queries][columns]
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kCount; ++v) sums[r][v] = Lanes::splat(0.0f);
  }
  for (int64_t j = first; j < last; ++j) {
    Lanes::Float value[kCount];
    for (int v = 0; v < kCount; ++v) value[v] = Lanes::load(values + j * kStrip + v * Lanes::kWidth);
    for (int r = 0; r < kRows; ++r) {
      const Lanes::Float weight = Lanes::splat(weights[r * stride + j]);
      for (int v = 0; v < kCount; ++v) sums[r][v] = Lanes::fma(weight, value[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kCount; ++v) {
      if (r >= rows) continue;
      const Lanes::Float mixed = Lanes::canonical_nan(Lanes::mul(sums[r][v], Lanes::splat(inverse[r])));
      Scalar* at = out + r * out_stride + v * Lanes::kWidth;
      const int64_t left = columns - v * Lanes::kWidth;
      left >= Lanes::kWidth ? Lanes::store(at, mixed) : Lanes::store_some(at, mixed, static_cast<int>(left));
    }
  }
}

float largest(const float* scores, int64_t begin, int64_t end) {
  Lanes::Float best = Lanes::load(scores + begin);
  for (int64_t j = begin; j < end; j += Lanes::kWidth) best = Lanes::max(best, Lanes::load(scores + j));
  float lanes[Lanes::kWidth];
  Lanes::store(lanes, best);
  for (const float lane : lanes) lanes[0] = lane > lanes[0] ? lane : lanes[0];
  return lanes[0];
}

// Scores [first, last) of a query to weights, those outside to 0 from `begin` (a multiple of kWeightLanes) to `end`;
// returns the sum of the weights. Precondition: begin <= first < last <= end, and the memory goes on to a multiple of
// kWeightLanes. Where a score is a NaN, so is the sum.
float weigh(float* scores, int64_t begin, int64_t first, int64_t last, int64_t end, float scale) {
  const int64_t whole = (last + kWeightLanes - 1) / kWeightLanes * kWeightLanes;
  for (int64_t j = begin; j < first; ++j) scores[j] = scores[first];
  for (int64_t j = last; j < whole; ++j) scores[j] = scores[first];
  const float best = largest(scores, begin, whole);
  for (int64_t j = begin; j < whole; j += Lanes::kWidth) {
    const Lanes::Float x = Lanes::sub(Lanes::load(scores + j), Lanes::splat(best));
    Lanes::store(scores + j, half_exp(Lanes::mul(x, Lanes::splat(scale))));  // half of each: the quotient is the same
  }
  for (int64_t j = begin; j < first; ++j) scores[j] = 0.0f;
  for (int64_t j = last; j < (end > whole ? end : whole); ++j) scores[j] = 0.0f;
  float lanes[kWeightLanes] = {};
  for (int64_t j = begin; j < whole; j += kWeightLanes) {
    for (int64_t lane = 0; lane < kWeightLanes; ++lane) lanes[lane] += scores[j + lane];
  }
  for (int64_t half = kWeightLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

void score_tile(const AttentionScratch& scratch, int64_t dim, int64_t begin, int64_t end, int64_t stride) {
  for (int64_t strip = begin / kStrip * kStrip; strip < end; strip += kStrip) {
    const float* keys = scratch.keys + strip * dim;
    float* scores = scratch.weights + strip;
    switch ((smaller(kStrip, end - strip) + Lanes::kWidth - 1) / Lanes::kWidth) {
      case 1:
        score_strip<1>(scratch.queries, keys, dim, scores, stride);
        break;
      case 2:
        score_strip<2>(scratch.queries, keys, dim, scores, stride);
        break;
      case 3:
        score_strip<kVectors < 3 ? kVectors : 3>(scratch.queries, keys, dim, scores, stride);
        break;
      default:
        score_strip<kVectors>(scratch.queries, keys, dim, scores, stride);
    }
  }
}

// Weights of a tile's queries in scratch.weights, the inverse of their sums in `inverse`; returns the first key they see.
template <typename Scalar>
int64_t weigh_tile(const AttentionBatch<Scalar>& batch, const AttentionScratch& scratch, int64_t row, int64_t rows,
                   int64_t stride, float* inverse) {
  const int64_t end = row + rows;
  const int64_t earliest = row + 1 > batch.window ? row + 1 - batch.window : 0;
  const int64_t begin = earliest / kWeightLanes * kWeightLanes;
  score_tile(scratch, batch.dim, begin, end, stride);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t last = row + r + 1;
    const int64_t first = last > batch.window ? last - batch.window : 0;
    inverse[r] = 1.0f / weigh(scratch.weights + r * stride, begin, first, last, end, batch.scale);
  }
  return begin;
}

template <typename Scalar>
void mix_tile(const float* weights, int64_t stride, int64_t begin, int64_t end, const float* values, int64_t tokens,
              const float* inverse, Scalar* out, int64_t out_stride, int64_t rows, int64_t columns) {
  for (int64_t strip = 0; strip < columns; strip += kStrip) {
    const int64_t left = columns - strip;
    const float* at = values + strip * tokens;
    if (left > kStrip - Lanes::kWidth) {
      mix_strip<kVectors>(weights, stride, begin, end, at, inverse, out + strip, out_stride, rows, left);
      continue;
    }
    for (int64_t c = 0; c < left; c += Lanes::kWidth) {
      mix_strip<1>(weights, stride, begin, end, at + c, inverse, out + strip + c, out_stride, rows, left - c);
    }
  }
}

template <typename Scalar>
void attend_group(const AttentionGroup<Scalar>& unit, const AttentionScratch& scratch) {
  const AttentionBatch<Scalar>& batch = *unit.batch;
  const int64_t stride = (unit.tokens + kAttentionPad - 1) / kAttentionPad * kAttentionPad;
  pack_keys(batch.key + unit.first * batch.key_stride + unit.group * batch.dim, batch.key_stride, unit.tokens,
            batch.dim, scratch.keys);
  pack_values(batch.value + unit.first * batch.value_stride + unit.group * batch.value_dim, batch.value_stride,
              unit.tokens, batch.value_dim, scratch.values);
  const int64_t members = batch.heads / batch.groups;
  for (int64_t head = unit.group * members; head < (unit.group + 1) * members; ++head) {
    for (int64_t row = 0; row < unit.tokens; row += kRows) {
      const int64_t rows = smaller(kRows, unit.tokens - row);
      const int64_t token = unit.first + row;
      pack_queries(batch.query + token * batch.query_stride + head * batch.dim, batch.query_stride, rows, batch.dim,
                   scratch.queries);
      float inverse[kRows];
      const int64_t begin = weigh_tile(batch, scratch, row, rows, stride, inverse);
      mix_tile(scratch.weights, stride, begin, row + rows, scratch.values, unit.tokens, inverse,
               batch.out + token * batch.out_stride + head * batch.value_dim, batch.out_stride, rows, batch.value_dim);
    }
  }
}

}  // namespace
}  // namespace nagfast
