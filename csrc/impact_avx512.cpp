// SPDX-License-Identifier: Apache-2.0
#include "simd_avx512.h"

#include "impact_kernel.h"

namespace nagfast {

void impact_block_avx512(const ImpactBlock<float>& block) { dispatch_block(block); }
void impact_block_avx512(const ImpactBlock<uint16_t>& block) { dispatch_block(block); }

}  // namespace nagfast
