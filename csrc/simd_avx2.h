// SPDX-License-Identifier: Apache-2.0
// Eight lanes of AVX2 and FMA; simd_scalar.h says what each function means. Included by *_avx2.cpp only. Everything
// here has internal linkage and no standard template is used, so that no function compiled for AVX2 can be merged by
// the linker with one that runs elsewhere.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace nagfast {
namespace {

struct Lanes {
  static constexpr int kWidth = 8;
  using Float = __m256;

  static Float splat(float x) { return _mm256_set1_ps(x); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static Float load(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static void store(uint16_t* p, Float x) {
    const __m256i word = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(word, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    // packus works within 128-bit halves: the two that hold data are lanes 0 and 2.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  template <typename Scalar>
  static Float load_some(const Scalar* p, int count) {
    Scalar buffer[kWidth] = {};
    std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(Scalar));
    return load(buffer);
  }
  template <typename Scalar>
  static void store_some(Scalar* p, Float x, int count) {
    Scalar buffer[kWidth];
    store(buffer, x);
    std::memcpy(p, buffer, static_cast<size_t>(count) * sizeof(Scalar));
  }

  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
  static Float sqrt(Float a) { return _mm256_sqrt_ps(a); }
  static Float abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static Float negate(Float a) { return _mm256_xor_ps(_mm256_set1_ps(-0.0f), a); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float low_bits_as_exponent(Float a) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
  }
  static Float canonical_nan(Float a) {
    const Float nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
    return _mm256_blendv_ps(a, nan, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  }
};

}  // namespace
}  // namespace nagfast
