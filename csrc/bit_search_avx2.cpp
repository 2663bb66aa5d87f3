// SPDX-License-Identifier: Apache-2.0
// Internal linkage and no standard templates throughout, for the reason given in simd_avx2.h.
#include <immintrin.h>

#include "bit_search_kernel.h"

namespace nagfast {
namespace {

struct Bits {
  static constexpr int kWords = 4;
  using Word = __m256i;
  // Two bits x, y of the same weight as x and x ^ y. With that the two full adders of `add` take 8 operations, not 10:
  // each needs x ^ y, and so does whoever receives their carries.
  struct Pair {
    Word x, differs;
  };

  static Word zero() { return _mm256_setzero_si256(); }
  static Word all_ones() { return _mm256_set1_epi32(-1); }
  static Word load(const uint64_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(uint64_t* p, Word x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }
  static bool any(Word x) { return _mm256_testz_si256(x, x) == 0; }
  static Word both(Word a, Word b) { return _mm256_and_si256(a, b); }
  static Word either(Word a, Word b) { return _mm256_or_si256(a, b); }
  static Word but_not(Word a, Word b) { return _mm256_andnot_si256(b, a); }
  static Word differ(Word a, Word b) { return _mm256_xor_si256(a, b); }

  static Pair pair(Word x, Word y) { return {x, differ(x, y)}; }
  // carry = x where the pair agrees, else z.
  static Word add(Word& z, Pair a) {
    const Word carry = differ(z, but_not(differ(a.x, z), a.differs));
    z = differ(z, a.differs);
    return carry;
  }
  // Carries c1 = z ^ (u & ~a.differs), c2 = middle ^ v with middle = z ^ a.differs, so that
  // c1 ^ c2 = a.differs ^ (u & ~a.differs) ^ v = (a.differs | u) ^ v.
  static Pair add(Word& z, Pair a, Pair b) {
    const Word u = differ(a.x, z);
    const Word middle = differ(z, a.differs);
    const Word v = but_not(differ(b.x, middle), b.differs);
    z = differ(middle, b.differs);
    return {differ(middle, v), differ(either(a.differs, u), v)};
  }
};

}  // namespace

bool find_lanes_avx2(const BitTask& task) { return find_lanes<Bits>(task); }

}  // namespace nagfast
