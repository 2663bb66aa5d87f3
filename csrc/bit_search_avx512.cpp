// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include "bit_search_kernel.h"
#include "intrinsics_avx512.h"

namespace nagfast {
namespace {

struct Bits {
  static constexpr int kWords = 8;
  using Word = __m512i;
  struct Pair {
    Word x, y;
  };

  static Word zero() { return _mm512_setzero_si512(); }
  static Word all_ones() { return _mm512_set1_epi32(-1); }
  static Word load(const uint64_t* p) { return _mm512_load_si512(p); }
  static void store(uint64_t* p, Word x) { _mm512_store_si512(p, x); }
  static bool any(Word x) { return _mm512_test_epi64_mask(x, x) != 0; }
  static Word both(Word a, Word b) { return _mm512_and_si512(a, b); }
  static Word either(Word a, Word b) { return _mm512_or_si512(a, b); }
  static Word but_not(Word a, Word b) { return _mm512_andnot_si512(b, a); }
  static Word differ(Word a, Word b) { return _mm512_xor_si512(a, b); }

  // A full adder is two operations of three operands: 0x96 is their sum, 0xE8 their majority.
  static Pair pair(Word x, Word y) { return {x, y}; }
  static Word add(Word& z, Pair a) {
    const Word carry = _mm512_ternarylogic_epi64(z, a.x, a.y, 0xE8);
    z = _mm512_ternarylogic_epi64(z, a.x, a.y, 0x96);
    return carry;
  }
  static Pair add(Word& z, Pair a, Pair b) {
    const Word first = add(z, a);
    return {first, add(z, b)};
  }
};

}  // namespace

bool find_lanes_avx512(const BitTask& task) {
  switch (task.planes) {
    case 6:
      return find_lanes_held<Bits, 6>(task);
    case 7:
      return find_lanes_held<Bits, 7>(task);
    case 8:
      return find_lanes_held<Bits, 8>(task);
    case 9:
      return find_lanes_held<Bits, 9>(task);
    case 10:
      return find_lanes_held<Bits, 10>(task);
    case 11:
      return find_lanes_held<Bits, 11>(task);
    default:
      return find_lanes<Bits>(task);
  }
}

}  // namespace nagfast
