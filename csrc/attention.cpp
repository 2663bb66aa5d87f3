// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>

#include "parallel.h"

namespace nagfast {
namespace {

template <typename Scalar>
using GroupFunction = void (*)(const AttentionGroup<Scalar>&, const AttentionScratch&);

template <typename Scalar>
GroupFunction<Scalar> group_function(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &attend_group_scalar;
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return &attend_group_avx2;
    case Isa::kAvx512:
      return &attend_group_avx512;
#endif
    default:
      throw std::logic_error("attention: no code for this instruction set in this build");
  }
}

int64_t padded(int64_t count) { return (count + kAttentionPad - 1) / kAttentionPad * kAttentionPad; }

// Owns the memory of an AttentionScratch for documents of up to `tokens` tokens.
class Memory {
 public:
  Memory(int64_t tokens, int64_t dim, int64_t value_dim) {
    const int64_t keys = padded(dim * padded(tokens));
    const int64_t values = padded(tokens * padded(value_dim));
    const int64_t queries = padded(dim * kAttentionRows);
    const int64_t weights = padded(kAttentionRows * padded(tokens));
    const int64_t total = keys + values + queries + weights + kAttentionPad;
    floats_ = std::make_unique<float[]>(static_cast<size_t>(total));
    void* start = floats_.get();
    size_t space = static_cast<size_t>(total) * sizeof(float);
    auto* at = static_cast<float*>(std::align(64, sizeof(float), start, space));
    scratch_ = {at, at + keys, at + keys + values, at + keys + values + queries};
  }
  const AttentionScratch& scratch() const { return scratch_; }

 private:
  std::unique_ptr<float[]> floats_;
  AttentionScratch scratch_;
};

}  // namespace

template <typename Scalar>
void causal_attention(const AttentionBatch<Scalar>& batch, int threads, Isa isa) {
  const GroupFunction<Scalar> run = group_function<Scalar>(isa);
  int64_t longest = 0;
  for (int64_t d = 0; d < batch.documents; ++d) {
    longest = std::max(longest, batch.cu_seqlens[d + 1] - batch.cu_seqlens[d]);
  }
  const int64_t units = batch.documents * batch.groups;
  if (longest == 0) return;
  std::atomic<int64_t> next{0};  // documents differ in length: workers take the next one when they are done
  run_workers(static_cast<int>(std::min<int64_t>(threads, units)), [&](int) {
    const Memory memory(longest, batch.dim, batch.value_dim);
    for (int64_t unit = next++; unit < units; unit = next++) {
      const int64_t first = batch.cu_seqlens[unit / batch.groups];
      const int64_t tokens = batch.cu_seqlens[unit / batch.groups + 1] - first;
      if (tokens > 0) run({&batch, first, tokens, unit % batch.groups}, memory.scratch());
    }
  });
}

template void causal_attention<float>(const AttentionBatch<float>&, int, Isa);
template void causal_attention<uint16_t>(const AttentionBatch<uint16_t>&, int, Isa);

}  // namespace nagfast
