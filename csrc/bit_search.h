// SPDX-License-Identifier: Apache-2.0
// One query against one block of targets, bit-sliced: what each instruction set provides to bit_targets.cpp.
//
// A block has kBitLanes targets, one bit position each. For each (layer, neuron) that some target of the block holds
// there is a row of bits saying which ones do. Adding the rows of a query's neurons as bits, with carry-save adders,
// leaves the number of neurons in common with every target of the block, bit plane by bit plane: about five logic
// operations a row and vector, whatever the number of targets that hold the neuron. Rows of neurons that no target of
// the block holds are left out.
#pragma once

#include <cstdint>

namespace nagfast {

constexpr int64_t kBitLanes = 512;
constexpr int kBitWords = static_cast<int>(kBitLanes / 64);

// Rows of a cache line, so that one is fetched whole, and twice a vector of AVX2.
struct alignas(64) BitRow {
  uint64_t words[kBitWords];
};

// Rows are added in groups of this many; the adders reach plane kBitGroupPlanes - 1 before the carries ripple on.
constexpr int64_t kBitGroup = 16;
constexpr int kBitGroupPlanes = 6;

// Planes that hold sums of `most` rows; never fewer than the adders use.
constexpr int bit_planes(int64_t most) {
  int planes = kBitGroupPlanes;
  while (most >> planes != 0) ++planes;
  return planes;
}

// Not owned. Indices of the query have been checked.
template <typename Index>
struct BitTask {
  const Index* query;     // [layers, k]
  int64_t layer_stride;   // of the query, in elements
  int64_t layers;
  int64_t k;
  int64_t neurons;
  const BitRow* rows;     // of the block; rows[0] is all zero
  const uint16_t* map;    // [layers, neurons]: 0, or the row's number within its layer, from 1
  const uint32_t* bases;  // [layers]: what to add to a number for the row
  int first_word;         // words [first_word, last_word) of the rows are wanted
  int last_word;
  int64_t bound;          // lanes with at least this many neurons in common are wanted
  int planes;
  uint32_t* list;         // room for layers * k + kBitGroup rows
  BitRow* sums;           // [planes], written
  BitRow* mask;           // written: the lanes that reach the bound; may have bits outside the words wanted
};

// Returns whether a lane within the words wanted reaches the bound; else sums and mask may be left unwritten.
bool find_lanes_scalar(const BitTask<uint16_t>& task);
bool find_lanes_scalar(const BitTask<uint32_t>& task);
bool find_lanes_avx2(const BitTask<uint16_t>& task);
bool find_lanes_avx2(const BitTask<uint32_t>& task);
bool find_lanes_avx512(const BitTask<uint16_t>& task);
bool find_lanes_avx512(const BitTask<uint32_t>& task);

}  // namespace nagfast
