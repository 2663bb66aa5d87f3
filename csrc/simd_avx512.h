// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes of AVX-512; simd_scalar.h says what each function means. Included by *_avx512.cpp only, under the same
// rules as simd_avx2.h.
#pragma once

#include <cstdint>

#include "intrinsics_avx512.h"

namespace nagfast {
namespace {

struct Lanes {
  static constexpr int kWidth = 16;
  using Float = __m512;

  static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
  static Float widen(__m256i half) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static __m256i narrow(Float x) {
    const __m512i word = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(word, _mm512_set1_epi32(0x7FFF)), odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  }

  static Float splat(float x) { return _mm512_set1_ps(x); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static Float load(const uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static void store(uint16_t* p, Float x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
  static Float load_some(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static Float load_some(const uint16_t* p, int count) { return widen(_mm256_maskz_loadu_epi16(first(count), p)); }
  static void store_some(float* p, Float x, int count) { _mm512_mask_storeu_ps(p, first(count), x); }
  static void store_some(uint16_t* p, Float x, int count) { _mm256_mask_storeu_epi16(p, first(count), narrow(x)); }

  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  static Float sqrt(Float a) { return _mm512_sqrt_ps(a); }
  static Float abs(Float a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
  static Float negate(Float a) { return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float low_bits_as_exponent(Float a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
  }
  static Float canonical_nan(Float a) {
    const Float nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7FC00000));
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), nan);
  }
};

}  // namespace
}  // namespace nagfast
