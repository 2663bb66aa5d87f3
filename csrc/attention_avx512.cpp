// SPDX-License-Identifier: Apache-2.0
#include "simd_avx512.h"

#include "attention_kernel.h"

namespace nagfast {

void attend_group_avx512(const AttentionGroup<float>& group, const AttentionScratch& scratch) {
  attend_group(group, scratch);
}
void attend_group_avx512(const AttentionGroup<uint16_t>& group, const AttentionScratch& scratch) {
  attend_group(group, scratch);
}

}  // namespace nagfast
