// SPDX-License-Identifier: Apache-2.0
#include "isa.h"

#include <stdexcept>

namespace nagfast {
namespace {

bool runs_avx2() {
#if defined(NAGFAST_X86)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool runs_avx512() {
#if defined(NAGFAST_SIMDE)
  return true;  // the AVX-512 files were compiled against an emulation, for a test
#elif defined(NAGFAST_X86)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && runs_avx2();
#else
  return false;
#endif
}

bool runs_vp2intersect() {
#if defined(NAGFAST_SIMDE)
  return true;
#elif defined(NAGFAST_X86)
  return __builtin_cpu_supports("avx512vp2intersect") && runs_avx512();
#else
  return false;
#endif
}

}  // namespace

std::vector<Isa> available_isas(bool for_sets) {
  std::vector<Isa> isas{Isa::kScalar};
  if (runs_avx2()) isas.push_back(Isa::kAvx2);
  if (runs_avx512()) isas.push_back(Isa::kAvx512);
  if (for_sets && runs_vp2intersect()) isas.push_back(Isa::kVp2intersect);
  return isas;
}

std::string isa_name(Isa isa) {
  switch (isa) {
    case Isa::kVp2intersect:
      return "vp2intersect";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "scalar";
  }
}

Isa resolve_isa(const std::string& name, bool for_sets) {
  const std::vector<Isa> isas = available_isas(for_sets);
  if (name == "auto") return isas.back();
  std::string choices = "'auto'";
  for (const Isa isa : isas) {
    if (isa_name(isa) == name) return isa;
    choices += ", '" + isa_name(isa) + "'";
  }
  throw std::invalid_argument("isa: '" + name + "' is not available here; use one of " + choices);
}

}  // namespace nagfast
