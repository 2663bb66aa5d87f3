// SPDX-License-Identifier: Apache-2.0
#include "bindings.h"

namespace nagfast {

void bind_bits(pybind11::module_&) {}

}  // namespace nagfast
