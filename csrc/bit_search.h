// SPDX-License-Identifier: Apache-2.0
// One query against one block of targets, bit-sliced: what each instruction set provides to bit_search.cpp.
//
// A block has kBitLanes targets, one bit position each. For each (layer, neuron) that some target of the block holds
// there is a row of bits saying which ones do. Adding the rows of a query's neurons as bits, with carry-save adders,
// leaves the number of neurons in common with every target of the block, bit plane by bit plane: about five logic
// operations a row and vector, whatever the number of targets that hold the neuron. Rows of neurons that no target of
// the block holds are left out beforehand.
#pragma once

#include <cstdint>

namespace nagfast {

constexpr int64_t kBitLanes = 512;
constexpr int kBitWords = static_cast<int>(kBitLanes / 64);

// A cache line, and two vectors of AVX2. 256 lanes need as many look-ups for half the targets, 1,024 more cache.
struct alignas(64) BitRow {
  uint64_t words[kBitWords];
};

// The rows of a query are padded to a multiple of this.
constexpr int64_t kBitGroup = 16;

// Planes that hold sums of up to `most` rows; never fewer than the adders use.
constexpr int bit_planes(int64_t most) {
  int planes = 6;
  while (most >> planes != 0) ++planes;
  return planes;
}

// Some rows to be added to the sums of one query. Not owned.
struct BitTask {
  const BitRow* rows;     // of the block; the first is all zero
  const uint32_t* list;   // [count]: the rows to add, as bytes from `rows`; count is a multiple of kBitGroup
  int64_t count;
  int first_word;         // words [first_word, last_word) of the rows are wanted
  int last_word;
  bool fresh;             // the sums start at zero, whatever they hold
  int64_t bound;          // lanes with at least this sum are wanted; it fits the planes
  int planes;
  BitRow* sums;           // [planes], written
  BitRow* mask;           // written: the lanes that reach the bound, some of them outside the words wanted
};

// Returns whether a lane reaches the bound; else sums and mask are of no use.
bool find_lanes_scalar(const BitTask& task);
bool find_lanes_avx2(const BitTask& task);
bool find_lanes_avx512(const BitTask& task);

}  // namespace nagfast
