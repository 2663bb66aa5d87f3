// SPDX-License-Identifier: Apache-2.0
// The exponential function on the lanes of one instruction set: the same operations in the same order on each, so the
// same bytes. Included by kernels only, after one simd_*.h.
#pragma once

namespace nagfast {
namespace {

// exp(x) / 2, for x clamped to [-80, 89]: from 89 the result is inf once doubled, and below -80 it no longer shows in
// 1 + exp(x). NaN propagates. Relative error about 1e-7.
//
// x = n ln 2 + r with n an integer and |r| <= ln 2 / 2 (Cody and Waite: ln 2 in two parts). Adding 1.5 * 2^23 rounds
// to an integer and leaves it in the low bits; the 126 makes them the exponent field of 2^(n-1), the halving keeping
// n = 128 in range. exp(r) is the polynomial 1 + r + c2 r^2 + .. + c6 r^6 of least relative error (3.7e-9 as
// rounded to float), found by iteratively reweighted least squares.
Lanes::Float half_exp(Lanes::Float x) {
  const float kShift = 12582912.0f + 126.0f;
  x = Lanes::max(Lanes::splat(-80.0f), x);
  x = Lanes::min(Lanes::splat(89.0f), x);
  const Lanes::Float shifted = Lanes::fma(x, Lanes::splat(0x1.715476p+0f), Lanes::splat(kShift));
  const Lanes::Float n = Lanes::sub(shifted, Lanes::splat(kShift));
  Lanes::Float r = Lanes::fma(n, Lanes::splat(-0x1.62e43p-1f), x);
  r = Lanes::fma(n, Lanes::splat(0x1.05c61p-29f), r);
  Lanes::Float p = Lanes::splat(0x1.6a23c0p-10f);
  p = Lanes::fma(p, r, Lanes::splat(0x1.123a20p-7f));
  p = Lanes::fma(p, r, Lanes::splat(0x1.5558f4p-5f));
  p = Lanes::fma(p, r, Lanes::splat(0x1.555492p-3f));
  p = Lanes::fma(p, r, Lanes::splat(0x1.fffffcp-2f));
  p = Lanes::fma(p, r, Lanes::splat(1.0f));
  p = Lanes::fma(p, r, Lanes::splat(1.0f));
  return Lanes::mul(p, Lanes::low_bits_as_exponent(shifted));
}

}  // namespace
}  // namespace nagfast
