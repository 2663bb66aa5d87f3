// SPDX-License-Identifier: Apache-2.0
// gelu_tanh(g) = g * s(z), s(z) = 1 / (1 + exp(-z)), z = sqrt(8 / pi) (g + 0.044715 g^3), on the lanes of one
// instruction set: 0.5 (1 + tanh(z / 2)) is s(z). The same operations in the same order on each, so the same bytes.
// Included by kernels only, after one simd_*.h.
#pragma once

#include "exp.h"

namespace nagfast {
namespace {

Lanes::Float sigmoid(Lanes::Float z) {
  const Lanes::Float one = Lanes::splat(1.0f);
  return Lanes::div(one, Lanes::fma(half_exp(Lanes::negate(z)), Lanes::splat(2.0f), one));
}

struct GeluTanh {
  Lanes::Float value;
  Lanes::Float gate;     // within [-10, 10], where s is 0 or 1 to 38 digits
  Lanes::Float square;   // of it
  Lanes::Float sigmoid;  // s(z)
};

constexpr float kGeluFactor = 1.5957691216f;  // sqrt(8 / pi)

GeluTanh gelu_tanh(Lanes::Float gate) {
  const Lanes::Float low = Lanes::max(Lanes::splat(-10.0f), gate);
  const Lanes::Float g = Lanes::min(Lanes::splat(10.0f), low);
  const Lanes::Float square = Lanes::mul(g, g);
  const Lanes::Float z = Lanes::mul(Lanes::mul(g, Lanes::splat(kGeluFactor)),
                                    Lanes::fma(square, Lanes::splat(0.044715f), Lanes::splat(1.0f)));
  const Lanes::Float s = sigmoid(z);
  return {Lanes::mul(low, s), g, square, s};
}

}  // namespace
}  // namespace nagfast
