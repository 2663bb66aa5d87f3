// SPDX-License-Identifier: Apache-2.0
#include "simd_scalar.h"

#include "attention_kernel.h"

namespace nagfast {

void attend_group_scalar(const AttentionGroup<float>& group, const AttentionScratch& scratch) {
  attend_group(group, scratch);
}
void attend_group_scalar(const AttentionGroup<uint16_t>& group, const AttentionScratch& scratch) {
  attend_group(group, scratch);
}

}  // namespace nagfast
