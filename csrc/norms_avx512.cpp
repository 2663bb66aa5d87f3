// SPDX-License-Identifier: Apache-2.0
#include "simd_avx512.h"

#include "norms_kernel.h"

namespace nagfast {

void norm_rows_avx512(const AddNormBatch<float>& batch, int64_t first, int64_t last) { norm_rows(batch, first, last); }
void norm_rows_avx512(const AddNormBatch<uint16_t>& batch, int64_t first, int64_t last) { norm_rows(batch, first, last); }
void rotary_rows_avx512(const RotaryBatch<float>& batch, int64_t first, int64_t last) { rotary_rows(batch, first, last); }
void rotary_rows_avx512(const RotaryBatch<uint16_t>& batch, int64_t first, int64_t last) {
  rotary_rows(batch, first, last);
}

}  // namespace nagfast
