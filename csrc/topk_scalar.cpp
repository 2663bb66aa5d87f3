// SPDX-License-Identifier: Apache-2.0
#include "topk.h"

namespace nagfast {
namespace {

bool group_maxima(const float* row, int64_t columns, int64_t groups, float* maxima) {
  bool has_nan = false;
  for (int64_t g = 0; g < groups; ++g) {
    maxima[g] = row[g];
    has_nan |= row[g] != row[g];
  }
  for (int64_t start = groups; start < columns; start += groups) {
    const int64_t width = columns - start < groups ? columns - start : groups;
    for (int64_t g = 0; g < width; ++g) {
      const float value = row[start + g];
      maxima[g] = value > maxima[g] ? value : maxima[g];
      has_nan |= value != value;
    }
  }
  return has_nan;
}

int64_t collect(const float* row, int64_t columns, float threshold, uint32_t* indices) {
  int64_t count = 0;
  for (int64_t i = 0; i < columns; ++i) {
    indices[count] = static_cast<uint32_t>(i);
    count += row[i] >= threshold;
  }
  return count;
}

}  // namespace

const TopkPasses kTopkScalar{&group_maxima, &collect};

}  // namespace nagfast
