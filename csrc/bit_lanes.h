// SPDX-License-Identifier: Apache-2.0
// Work on a row of bits, a lane each, that is rare enough to need no instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bit_search.h"

namespace nagfast {

inline int lowest_bit(uint64_t word) {
#if defined(__GNUC__)
  return __builtin_ctzll(word);
#else
  int bit = 0;
  while ((word >> bit & 1) == 0) ++bit;
  return bit;
#endif
}

// Without the popcount instruction, which the baseline lacks.
inline int64_t ones(const BitRow& row) {
  uint64_t total = 0;
  for (uint64_t word : row.words) {
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    word = (word + (word >> 4)) & 0x0F0F0F0F0F0F0F0F;
    total += word * 0x0101010101010101 >> 56;
  }
  return static_cast<int64_t>(total);
}

// Leaves of the lanes in `mask` those whose sum is among the k largest, ties included: decided bit by bit from the top.
inline void keep_largest(const BitRow* sums, int planes, int64_t k, BitRow& mask) {
  BitRow sure{};
  BitRow open = mask;
  int64_t wanted = k;
  for (int p = planes - 1; p >= 0; --p) {
    BitRow with;
    for (int w = 0; w < kBitWords; ++w) with.words[w] = open.words[w] & sums[p].words[w];
    const int64_t count = ones(with);
    if (count >= wanted) {
      open = with;
      continue;
    }
    wanted -= count;
    for (int w = 0; w < kBitWords; ++w) {
      sure.words[w] |= with.words[w];
      open.words[w] &= ~sums[p].words[w];
    }
  }
  for (int w = 0; w < kBitWords; ++w) mask.words[w] = sure.words[w] | open.words[w];
}

// Clears the lanes outside [first, last).
inline void restrict_to(int64_t first, int64_t last, BitRow& mask) {
  for (int64_t w = 0; w < kBitWords; ++w) {
    const int64_t low = std::clamp(first - 64 * w, int64_t{0}, int64_t{64});
    const int64_t high = std::clamp(last - 64 * w, int64_t{0}, int64_t{64});
    const uint64_t below_high = high == 64 ? ~uint64_t{0} : (uint64_t{1} << high) - 1;
    const uint64_t below_low = low == 64 ? ~uint64_t{0} : (uint64_t{1} << low) - 1;
    mask.words[w] &= below_high & ~below_low;
  }
}

}  // namespace nagfast
