// SPDX-License-Identifier: Apache-2.0
// What each bindings file adds to the module; called once, by bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace nagfast {

void bind_attention(pybind11::module_& module);  // bindings_attention.cpp
void bind_backward(pybind11::module_& module);   // bindings_backward.cpp: activation-times-gradient impact
void bind_bits(pybind11::module_& module);       // bindings_bits.cpp: nearest targets on bit rows
void bind_minhash(pybind11::module_& module);    // bindings_minhash.cpp
void bind_norms(pybind11::module_& module);      // bindings_norms.cpp: RMS norms, rotary embedding
void bind_sets(pybind11::module_& module);       // bindings_sets.cpp: overlap of NAGs, count sketches

}  // namespace nagfast
