// SPDX-License-Identifier: Apache-2.0
// AVX-512 emulated by SIMDe, with the intrinsics that SIMDe 0.7.4 lacks, written out lane by lane. For the test that
// runs the AVX-512 files on machines without AVX-512; fused multiply-adds are native, so it needs AVX2 and FMA.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <cstdint>
#include <cstring>

namespace simde_gaps {

inline simde__m512i cvtepu16_epi32(simde__m256i x) {
  uint16_t in[16];
  uint32_t out[16];
  std::memcpy(in, &x, sizeof in);
  for (int i = 0; i < 16; ++i) out[i] = in[i];
  return simde_mm512_loadu_si512(out);
}

inline simde__m256i cvtepi32_epi16(simde__m512i x) {
  uint32_t in[16];
  uint16_t out[16];
  std::memcpy(in, &x, sizeof in);
  for (int i = 0; i < 16; ++i) out[i] = static_cast<uint16_t>(in[i]);
  return simde_mm256_loadu_si256(reinterpret_cast<const simde__m256i*>(out));
}

// Bit 4a + 2b + c of `table` for the bits a, b, c of each place.
inline simde__m512i ternarylogic(simde__m512i a, simde__m512i b, simde__m512i c, int table) {
  uint64_t in[3][8];
  uint64_t out[8] = {};
  std::memcpy(in[0], &a, sizeof a);
  std::memcpy(in[1], &b, sizeof b);
  std::memcpy(in[2], &c, sizeof c);
  for (int i = 0; i < 8; ++i) {
    for (int term = 0; term < 8; ++term) {
      if ((table >> term & 1) == 0) continue;
      out[i] |= (term & 4 ? in[0][i] : ~in[0][i]) & (term & 2 ? in[1][i] : ~in[1][i]) &
                (term & 1 ? in[2][i] : ~in[2][i]);
    }
  }
  return simde_mm512_loadu_si512(out);
}

// Masked-off lanes are not touched in memory.
template <typename Vector, typename Lane>
Vector maskz_load(uint32_t mask, const void* from) {
  constexpr int kLanes = sizeof(Vector) / sizeof(Lane);
  Lane lanes[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    if (mask >> i & 1) std::memcpy(&lanes[i], static_cast<const char*>(from) + i * sizeof(Lane), sizeof(Lane));
  }
  Vector x;
  std::memcpy(&x, lanes, sizeof x);
  return x;
}

template <typename Lane, typename Vector>
void mask_store(void* to, uint32_t mask, Vector x) {
  Lane lanes[16];
  std::memcpy(lanes, &x, sizeof lanes);
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<char*>(to) + i * sizeof(Lane), &lanes[i], sizeof(Lane));
  }
}

struct Equal {
  static bool holds(uint16_t x, uint16_t y) { return x == y; }
};
struct Greater {
  static bool holds(uint16_t x, uint16_t y) { return x > y; }
};

template <typename Relation>
uint32_t compare_epu16(uint32_t mask, simde__m512i a, simde__m512i b) {
  uint16_t x[32];
  uint16_t y[32];
  std::memcpy(x, &a, sizeof x);
  std::memcpy(y, &b, sizeof y);
  uint32_t found = 0;
  for (int i = 0; i < 32; ++i) found |= static_cast<uint32_t>(Relation::holds(x[i], y[i])) << i;
  return found & mask;
}

}  // namespace simde_gaps

#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_ternarylogic_epi64
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16
#define _mm512_cvtepu16_epi32(x) simde_gaps::cvtepu16_epi32(x)
#define _mm512_cvtepi32_epi16(x) simde_gaps::cvtepi32_epi16(x)
#define _mm512_ternarylogic_epi64(a, b, c, table) simde_gaps::ternarylogic(a, b, c, table)
#define _mm512_maskz_loadu_ps(mask, from) simde_gaps::maskz_load<simde__m512, float>(mask, from)
#define _mm512_mask_storeu_ps(to, mask, x) simde_gaps::mask_store<float>(to, mask, x)
#define _mm256_maskz_loadu_epi16(mask, from) simde_gaps::maskz_load<simde__m256i, uint16_t>(mask, from)
#define _mm256_mask_storeu_epi16(to, mask, x) simde_gaps::mask_store<uint16_t>(to, mask, x)
// SIMDe aliases this one only where the compiler lacks it.
#undef _mm512_2intersect_epi32
#define _mm512_2intersect_epi32(a, b, of_a, of_b) simde_mm512_2intersect_epi32(a, b, of_a, of_b)
#undef _mm512_maskz_loadu_epi16
#undef _mm512_mask_cmpeq_epi16_mask
#undef _mm512_cmpgt_epu16_mask
#define _mm512_maskz_loadu_epi16(mask, from) simde_gaps::maskz_load<simde__m512i, uint16_t>(mask, from)
#define _mm512_mask_cmpeq_epi16_mask(mask, a, b) simde_gaps::compare_epu16<simde_gaps::Equal>(mask, a, b)
#define _mm512_cmpgt_epu16_mask(a, b) simde_gaps::compare_epu16<simde_gaps::Greater>(0xFFFFFFFFu, a, b)
