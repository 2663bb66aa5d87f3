// SPDX-License-Identifier: Apache-2.0
// The AVX-512 intrinsics, or an emulation of them (SIMDe) with which a test runs the AVX-512 files on any machine.
#pragma once

#if defined(NAGFAST_SIMDE)
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#endif
