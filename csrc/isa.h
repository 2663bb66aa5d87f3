// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace nagfast {

// Instruction sets with a code path of their own, slowest first. Every operation gives the same bytes on each.
// kVp2intersect is AVX-512 with VP2INTERSECT: few processors have it, and set similarity alone has code for it.
enum class Isa { kScalar, kAvx2, kAvx512, kVp2intersect };

// The ones that this build contains and this machine (processor and operating system) can run, slowest first.
// for_sets: with those that are for set similarity only.
std::vector<Isa> available_isas(bool for_sets = false);

std::string isa_name(Isa isa);

// "auto" is the fastest available. Throws std::invalid_argument for an unknown or unavailable name.
Isa resolve_isa(const std::string& name, bool for_sets = false);

}  // namespace nagfast
