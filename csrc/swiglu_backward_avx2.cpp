// SPDX-License-Identifier: Apache-2.0
#include "simd_avx2.h"

#include "swiglu_backward_kernel.h"

namespace nagfast {

void backward_block_avx2(const BackwardBlock<float>& block) { dispatch_block(block); }
void backward_block_avx2(const BackwardBlock<uint16_t>& block) { dispatch_block(block); }

}  // namespace nagfast
