// SPDX-License-Identifier: Apache-2.0
#include "simd_scalar.h"

#include "impact_kernel.h"

namespace nagfast {

void impact_block_scalar(const ImpactBlock<float>& block) { dispatch_block(block); }
void impact_block_scalar(const ImpactBlock<uint16_t>& block) { dispatch_block(block); }

}  // namespace nagfast
