// SPDX-License-Identifier: Apache-2.0
// out[d][k] = min over elements e of document d of (a[k] * mix(e) + b[k]) mod 2^32, with e = layer * neurons + neuron
// and mix the finalizer of MurmurHash3, a bijection of 32 bits: the "affine32" signatures of datasketch 2. All bits set
// for a document without a NAG, the minimum over nothing.
//
// A multiplication, an addition and a minimum per element and permutation: O(documents * layers * k * permutations).
// Multiplications and minima share two of the four vector ports of Zen 3, which bounds AVX2 there to one vector of 8 a
// cycle; the loop reaches 96% of it.
#pragma once

#include <cstdint>

#include "isa.h"
#include "nag_view.h"

namespace nagfast {

// Not owned. Precondition: layers * neurons <= 2^32.
template <typename Index>
struct MinhashTask {
  NagView<Index> nags;
  int64_t neurons;
  const uint32_t* a;  // [permutations]
  const uint32_t* b;  // [permutations]
  int64_t permutations;
  uint32_t* out;      // [documents, permutations], contiguous, written
};

// Throws std::invalid_argument naming the lowest document that holds an index out of range or a stray sentinel; `out`
// may then be partly written.
template <typename Index>
void minhash(const MinhashTask<Index>& task, int threads, Isa isa);

// Elements come in whole multiples of this many; one that is repeated changes no minimum.
constexpr int64_t kMinhashPad = 16;

// What an instruction set provides.
struct MinhashKernels {
  // h[i] = mix(h[i]) for i < n, a multiple of kMinhashPad here and below.
  void (*mix)(uint32_t* h, int64_t n);
  // out[k] = min over i < n of a[k] * mixed[i] + b[k], for k < count.
  void (*least)(const uint32_t* mixed, int64_t n, const uint32_t* a, const uint32_t* b, int64_t count, uint32_t* out);
};

extern const MinhashKernels kMinhashScalar;
#if defined(NAGFAST_X86)
extern const MinhashKernels kMinhashAvx2;
extern const MinhashKernels kMinhashAvx512;
#endif

}  // namespace nagfast
