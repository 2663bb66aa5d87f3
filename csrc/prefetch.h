// SPDX-License-Identifier: Apache-2.0
// Sends for the cache line at an address. A macro, as GCC takes a function that does nothing else for one without
// effect and drops the calls.
#pragma once

#if defined(__GNUC__)
#define NAGFAST_PREFETCH(address) __builtin_prefetch(address)
#else
#define NAGFAST_PREFETCH(address) static_cast<void>(address)
#endif
