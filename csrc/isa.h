// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace nagfast {

// Instruction sets with a code path of their own, slowest first. Every operation gives the same bytes on each.
enum class Isa { kScalar, kAvx2, kAvx512 };

// The ones that this build contains and this machine (processor and operating system) can run, slowest first.
std::vector<Isa> available_isas();

std::string isa_name(Isa isa);

// "auto" is the fastest available. Throws std::invalid_argument for an unknown or unavailable name.
Isa resolve_isa(const std::string& name);

}  // namespace nagfast
