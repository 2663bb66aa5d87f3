// SPDX-License-Identifier: Apache-2.0
// The bit-sliced sum, written once for all instruction sets. Included by bit_search_*.cpp only; internal linkage and no
// standard templates, so that each keeps its own.
//
// `Set` says what a vector is: Word, kWords (64-bit words in it), load, store, all_ones, zero, any, the logic
// operations both, either, but_not (a and not b) and differ; and how to add:
//   Pair pair(x, y)                two bits of the same weight
//   Pair add(z, a, b)              z <- low bit of z + a + b (five bits); returns the two carries
//   Word add(z, a)                 z <- low bit of z + a (three bits); returns the carry
#pragma once

#include <cstdint>

#include "bit_search.h"
#include "prefetch.h"

namespace nagfast {
namespace {

// Rows sent for ahead of their addition: far enough for the last-level cache, near enough to stay in the first.
constexpr int64_t kAhead = 32;
constexpr int64_t kRows = 2 * kBitGroup;  // added together where there are as many

// Adds 2 << (Level + 1) rows to sums[0..Level]; returns the two carries into sums[Level + 1].
template <typename Set, int Level>
struct Tree {
  static typename Set::Pair add(const char* rows, const uint32_t* list, typename Set::Word* sums) {
    const typename Set::Pair a = Tree<Set, Level - 1>::add(rows, list, sums);
    const typename Set::Pair b = Tree<Set, Level - 1>::add(rows, list + (2 << Level), sums);
    return Set::add(sums[Level], a, b);
  }
};

template <typename Set>
struct Tree<Set, 0> {
  static typename Set::Word row(const char* rows, uint32_t offset) {
    return Set::load(reinterpret_cast<const uint64_t*>(rows + offset));
  }
  static typename Set::Pair add(const char* rows, const uint32_t* list, typename Set::Word* sums) {
    const typename Set::Pair a = Set::pair(row(rows, list[0]), row(rows, list[1]));
    const typename Set::Pair b = Set::pair(row(rows, list[2]), row(rows, list[3]));
    return Set::add(sums[0], a, b);
  }
};

// Adds 4 << Level rows to the vectors [first, last) of the planes; the carries that the tree leaves ripple on.
template <typename Set, int Level>
void add_group(const BitTask& task, const uint32_t* list, int first, int last) {
  for (int word = first; word < last; word += Set::kWords) {
    typename Set::Word sums[Level + 2];
    for (int p = 0; p < Level + 2; ++p) sums[p] = Set::load(task.sums[p].words + word);
    const char* rows = reinterpret_cast<const char*>(task.rows->words + word);
    typename Set::Word carry = Set::add(sums[Level + 1], Tree<Set, Level>::add(rows, list, sums));
    for (int p = 0; p < Level + 2; ++p) Set::store(task.sums[p].words + word, sums[p]);
    for (int p = Level + 2; p < task.planes; ++p) {
      const typename Set::Word old = Set::load(task.sums[p].words + word);
      Set::store(task.sums[p].words + word, Set::differ(old, carry));
      carry = Set::both(old, carry);
    }
  }
}

// Adds rows [start, end) of the list, a multiple of kBitGroup.
template <typename Set>
void add_rows(const BitTask& task, int64_t start, int64_t end, int first, int last) {
  int64_t i = start;
  for (; i + kRows <= end; i += kRows) {
    if (i + kAhead + kRows <= task.count) {
      for (int64_t j = 0; j < kRows; ++j) {
        NAGFAST_PREFETCH(reinterpret_cast<const char*>(task.rows) + task.list[i + kAhead + j]);
      }
    }
    add_group<Set, 3>(task, task.list + i, first, last);
  }
  for (; i < end; i += kBitGroup) add_group<Set, 2>(task, task.list + i, first, last);
}

// The lanes of a vector whose sum is at least `bound`, which fits the planes.
template <typename Set>
typename Set::Word at_least(const BitRow* planes, int count, int64_t bound, int word) {
  typename Set::Word above = Set::zero();
  typename Set::Word equal = Set::all_ones();
  for (int p = count - 1; p >= 0; --p) {
    const typename Set::Word bits = Set::load(planes[p].words + word);
    if (bound >> p & 1) {
      equal = Set::both(equal, bits);
    } else {
      above = Set::either(above, Set::both(equal, bits));
      equal = Set::but_not(equal, bits);
    }
  }
  return Set::either(above, equal);
}

// Writes the mask of the lanes whose sum is at least `bound`; returns whether there is one.
template <typename Set>
bool mark_lanes(const BitTask& task, int64_t bound, int first, int last) {
  bool found = false;
  for (int word = first; word < last; word += Set::kWords) {
    const typename Set::Word lanes = at_least<Set>(task.sums, task.planes, bound, word);
    Set::store(task.mask->words + word, lanes);
    found = found || Set::any(lanes);
  }
  return found;
}

template <typename Set>
bool find_lanes(const BitTask& task) {
  const int first = task.first_word / Set::kWords * Set::kWords;
  const int last = task.last_word;
  for (int word = first; task.fresh && word < last; word += Set::kWords) {
    for (int p = 0; p < task.planes; ++p) Set::store(task.sums[p].words + word, Set::zero());
  }
  add_rows<Set>(task, 0, task.count, first, last);
  return mark_lanes<Set>(task, task.bound, first, last);
}

// The same for sets whose vectors hold a whole row and which have registers for `Planes` planes: the sums stay there.
template <typename Set, int Planes>
bool find_lanes_held(const BitTask& task) {
  typename Set::Word sums[Planes];
  for (int p = 0; p < Planes; ++p) sums[p] = task.fresh ? Set::zero() : Set::load(task.sums[p].words);
  const char* rows = reinterpret_cast<const char*>(task.rows);
  for (int64_t i = 0; i < task.count;) {
    if (i + kAhead + kRows <= task.count) {
      for (int64_t j = 0; j < kRows; ++j) NAGFAST_PREFETCH(rows + task.list[i + kAhead + j]);
    }
    typename Set::Word carry;
    if (i + kRows <= task.count) {
      carry = Set::add(sums[4], Tree<Set, 3>::add(rows, task.list + i, sums));
      i += kRows;
    } else {
      carry = Set::add(sums[3], Tree<Set, 2>::add(rows, task.list + i, sums));
      const typename Set::Word old = sums[4];
      sums[4] = Set::differ(old, carry);
      carry = Set::both(old, carry);
      i += kBitGroup;
    }
    for (int p = 5; p < Planes; ++p) {
      const typename Set::Word old = sums[p];
      sums[p] = Set::differ(old, carry);
      carry = Set::both(old, carry);
    }
  }
  for (int p = 0; p < Planes; ++p) Set::store(task.sums[p].words, sums[p]);
  return mark_lanes<Set>(task, task.bound, 0, kBitWords);
}

}  // namespace
}  // namespace nagfast
