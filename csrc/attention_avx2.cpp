// SPDX-License-Identifier: Apache-2.0
#include "simd_avx2.h"

#include "attention_kernel.h"

namespace nagfast {

void attend_group_avx2(const AttentionGroup<float>& group, const AttentionScratch& scratch) {
  attend_group(group, scratch);
}
void attend_group_avx2(const AttentionGroup<uint16_t>& group, const AttentionScratch& scratch) {
  attend_group(group, scratch);
}

}  // namespace nagfast
