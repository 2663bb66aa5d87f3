// SPDX-License-Identifier: Apache-2.0
#include "bit_search_kernel.h"

namespace nagfast {
namespace {

struct Bits {
  static constexpr int kWords = 1;
  using Word = uint64_t;
  struct Pair {
    Word x, y;
  };

  static Word zero() { return 0; }
  static Word all_ones() { return ~Word{0}; }
  static Word load(const uint64_t* p) { return *p; }
  static void store(uint64_t* p, Word x) { *p = x; }
  static bool any(Word x) { return x != 0; }
  static Word both(Word a, Word b) { return a & b; }
  static Word either(Word a, Word b) { return a | b; }
  static Word but_not(Word a, Word b) { return a & ~b; }
  static Word differ(Word a, Word b) { return a ^ b; }

  static Pair pair(Word x, Word y) { return {x, y}; }
  static Word add(Word& z, Pair a) {
    const Word half = a.x ^ a.y;
    const Word carry = (a.x & a.y) | (half & z);
    z ^= half;
    return carry;
  }
  static Pair add(Word& z, Pair a, Pair b) {
    const Word first = add(z, a);
    return {first, add(z, b)};
  }
};

}  // namespace

bool find_lanes_scalar(const BitTask& task) { return find_lanes<Bits>(task); }

}  // namespace nagfast
