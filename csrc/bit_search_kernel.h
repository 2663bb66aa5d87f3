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

namespace nagfast {
namespace {

// The rows that the block has, in order. No branch: whether a neuron is there is as good as random.
template <typename Index>
int64_t list_rows(const BitTask<Index>& task) {
  int64_t count = 0;
  for (int64_t l = 0; l < task.layers; ++l) {
    const Index* indices = task.query + l * task.layer_stride;
    const uint16_t* map = task.map + l * task.neurons;
    const uint32_t base = task.bases[l];
    for (int64_t i = 0; i < task.k; ++i) {
      const uint32_t number = map[indices[i]];
      task.list[count] = base + number;
      count += number != 0;
    }
  }
  return count;
}

// Adds 2 << (Level + 1) rows to sums[0..Level]; returns the two carries into sums[Level + 1].
template <typename Set, int Level>
struct Tree {
  static typename Set::Pair add(const uint64_t* rows, const uint32_t* list, typename Set::Word* sums) {
    const typename Set::Pair a = Tree<Set, Level - 1>::add(rows, list, sums);
    const typename Set::Pair b = Tree<Set, Level - 1>::add(rows, list + (2 << Level), sums);
    return Set::add(sums[Level], a, b);
  }
};

template <typename Set>
struct Tree<Set, 0> {
  static typename Set::Word row(const uint64_t* rows, uint32_t number) {
    return Set::load(rows + static_cast<uint64_t>(number) * kBitWords);
  }
  static typename Set::Pair add(const uint64_t* rows, const uint32_t* list, typename Set::Word* sums) {
    const typename Set::Pair a = Set::pair(row(rows, list[0]), row(rows, list[1]));
    const typename Set::Pair b = Set::pair(row(rows, list[2]), row(rows, list[3]));
    return Set::add(sums[0], a, b);
  }
};

// Adds a carry to the planes from `plane` on.
template <typename Set>
void ripple(typename Set::Word carry, BitRow* planes, int plane, int count, int word) {
  for (; plane < count; ++plane) {
    const typename Set::Word old = Set::load(planes[plane].words + word);
    Set::store(planes[plane].words + word, Set::differ(old, carry));
    carry = Set::both(old, carry);
  }
}

// Adds list[0, count), a multiple of kBitGroup, to the vector at `word` of the planes.
template <typename Set, typename Index>
void add_rows(const BitTask<Index>& task, const uint32_t* list, int64_t count, int word) {
  constexpr int kTop = 4;  // sums[kTop] takes the carries of 32 rows
  typename Set::Word sums[kTop + 1];
  for (int p = 0; p <= kTop; ++p) sums[p] = Set::load(task.sums[p].words + word);
  const uint64_t* rows = task.rows->words + word;
  int64_t i = 0;
  for (; i + 2 * kBitGroup <= count; i += 2 * kBitGroup) {
    const typename Set::Pair carries = Tree<Set, 3>::add(rows, list + i, sums);
    ripple<Set>(Set::add(sums[4], carries), task.sums, 5, task.planes, word);
  }
  for (; i < count; i += kBitGroup) {
    const typename Set::Pair carries = Tree<Set, 2>::add(rows, list + i, sums);
    const typename Set::Word carry = Set::add(sums[3], carries);
    const typename Set::Word old = sums[4];
    sums[4] = Set::differ(old, carry);
    ripple<Set>(Set::both(old, carry), task.sums, 5, task.planes, word);
  }
  for (int p = 0; p <= kTop; ++p) Set::store(task.sums[p].words + word, sums[p]);
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

template <typename Set, typename Index>
bool find_lanes(const BitTask<Index>& task) {
  int64_t count = list_rows(task);
  if (count < task.bound) return false;
  while (count % kBitGroup != 0) task.list[count++] = 0;
  const int first = task.first_word / Set::kWords * Set::kWords;
  bool found = false;
  for (int word = first; word < task.last_word; word += Set::kWords) {
    for (int p = 0; p < task.planes; ++p) Set::store(task.sums[p].words + word, Set::zero());
    add_rows<Set>(task, task.list, count, word);
    const typename Set::Word lanes = at_least<Set>(task.sums, task.planes, task.bound, word);
    Set::store(task.mask->words + word, lanes);
    found = found || Set::any(lanes);
  }
  return found;
}

}  // namespace
}  // namespace nagfast
