// SPDX-License-Identifier: Apache-2.0
// The AVX-512 intrinsics, or an emulation of them (SIMDe) with which a test runs the AVX-512 files on any machine.
#pragma once

#if defined(NAGFAST_SIMDE)
#include "simde_avx512.h"
#else
#include <immintrin.h>
#endif
