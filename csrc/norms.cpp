// SPDX-License-Identifier: Apache-2.0
#include "norms.h"

#include <stdexcept>

#include "parallel.h"

namespace nagfast {
namespace {

constexpr int64_t kTokensPerShare = 16;

template <typename Batch>
using RowsFunction = void (*)(const Batch&, int64_t, int64_t);

template <typename Batch>
void run_rows(const Batch& batch, int threads, RowsFunction<Batch> rows) {
  parallel_ranges(batch.tokens, kTokensPerShare, threads,
                  [&](int64_t first, int64_t last) { rows(batch, first, last); });
}

[[noreturn]] void refuse_isa() { throw std::logic_error("norms: no code for this instruction set in this build"); }

}  // namespace

template <typename Scalar>
void add_rms_norm(const AddNormBatch<Scalar>& batch, int threads, Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return run_rows<AddNormBatch<Scalar>>(batch, threads, &norm_rows_scalar);
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return run_rows<AddNormBatch<Scalar>>(batch, threads, &norm_rows_avx2);
    case Isa::kAvx512:
      return run_rows<AddNormBatch<Scalar>>(batch, threads, &norm_rows_avx512);
#endif
    default:
      refuse_isa();
  }
}

template <typename Scalar>
void norm_rotary(const RotaryBatch<Scalar>& batch, int threads, Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return run_rows<RotaryBatch<Scalar>>(batch, threads, &rotary_rows_scalar);
#if defined(NAGFAST_X86)
    case Isa::kAvx2:
      return run_rows<RotaryBatch<Scalar>>(batch, threads, &rotary_rows_avx2);
    case Isa::kAvx512:
      return run_rows<RotaryBatch<Scalar>>(batch, threads, &rotary_rows_avx512);
#endif
    default:
      refuse_isa();
  }
}

template void add_rms_norm<float>(const AddNormBatch<float>&, int, Isa);
template void add_rms_norm<uint16_t>(const AddNormBatch<uint16_t>&, int, Isa);
template void norm_rotary<float>(const RotaryBatch<float>&, int, Isa);
template void norm_rotary<uint16_t>(const RotaryBatch<uint16_t>&, int, Isa);

}  // namespace nagfast
