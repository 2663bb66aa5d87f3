// SPDX-License-Identifier: Apache-2.0
// Sends for the cache line at an address. GCC takes a function that does nothing else for one without effect and drops
// the calls to it; hence a macro, and functions that are always inlined.
#pragma once

#if defined(__GNUC__)
#define NAGFAST_PREFETCH(address) __builtin_prefetch(address)
#define NAGFAST_ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define NAGFAST_PREFETCH(address) static_cast<void>(address)
#define NAGFAST_ALWAYS_INLINE inline
#endif
