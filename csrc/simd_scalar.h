// SPDX-License-Identifier: Apache-2.0
// One lane of plain C++, with the interface of simd_avx2.h and simd_avx512.h: the definition of what they compute.
// Included by *_scalar.cpp only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace nagfast {
namespace {

struct Lanes {
  static constexpr int kWidth = 1;
  using Float = float;

  static uint32_t bits(float x) {
    uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    return word;
  }
  static float from_bits(uint32_t word) {
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }

  static Float splat(float x) { return x; }
  static Float load(const float* p) { return *p; }
  static Float load(const uint16_t* p) { return from_bits(static_cast<uint32_t>(*p) << 16); }
  static void store(float* p, Float x) { *p = x; }
  // bfloat16, to nearest even. Precondition: a NaN is the canonical one, which the rounding then leaves a NaN.
  static void store(uint16_t* p, Float x) {
    const uint32_t word = bits(x);
    *p = static_cast<uint16_t>((word + 0x7FFFu + ((word >> 16) & 1u)) >> 16);
  }
  // The first `count` < kWidth lanes, the others 0; never called for one lane.
  template <typename Scalar>
  static Float load_some(const Scalar* p, int) {
    return load(p);
  }
  template <typename Scalar>
  static void store_some(Scalar* p, Float x, int) {
    store(p, x);
  }

  static Float add(Float a, Float b) { return a + b; }
  static Float sub(Float a, Float b) { return a - b; }
  static Float mul(Float a, Float b) { return a * b; }
  static Float div(Float a, Float b) { return a / b; }
  static Float sqrt(Float a) { return std::sqrt(a); }
  static Float abs(Float a) { return from_bits(bits(a) & 0x7FFFFFFFu); }
  static Float negate(Float a) { return from_bits(bits(a) ^ 0x80000000u); }
  // a * b + c rounded once. On a baseline x86-64 build this is a call into the C library, several times slower than
  // the instruction: the price of the same bytes on a processor without it.
  static Float fma(Float a, Float b, Float c) { return std::fma(a, b, c); }
  // The second operand where either is a NaN, as the x86 instructions do.
  static Float max(Float a, Float b) { return a > b ? a : b; }
  static Float min(Float a, Float b) { return a < b ? a : b; }
  // The low bits of the representation, moved to where the exponent is.
  static Float low_bits_as_exponent(Float a) { return from_bits(bits(a) << 23); }
  static Float canonical_nan(Float a) { return a != a ? from_bits(0x7FC00000u) : a; }
};

}  // namespace
}  // namespace nagfast
