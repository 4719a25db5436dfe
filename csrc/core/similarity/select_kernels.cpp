#include "core/similarity/select_kernels.hpp"

#ifdef DCFAST_HAVE_AVX2
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string_view>

#include "core/system/cpu.hpp"

namespace dcfast {
namespace {

#ifdef DCFAST_HAVE_AVX2
/// By the processor's own word: not all compilers know this name.
bool have_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

}  // namespace

const SelectKernels& select_kernels() {
#ifdef DCFAST_HAVE_AVX2
  static const SelectKernels& chosen = []() -> const SelectKernels& {
    const char* const asked = std::getenv("DCFAST_ISA");
    const std::string_view isa = asked == nullptr ? "" : asked;
    const bool v3 = have_avx2() && __builtin_cpu_supports("fma") != 0 && have_f16c();
    if (!v3) return baseline::select_kernels;
    if (isa == "avx2" || __builtin_cpu_supports("avx512f") == 0 || __builtin_cpu_supports("avx512bw") == 0) return avx2::select_kernels;
    if (isa == "avx512" || __builtin_cpu_supports("avx512vnni") == 0) return avx512::select_kernels;
    return vnni::select_kernels;
  }();
  return chosen;
#else
  return baseline::select_kernels;
#endif
}

}  // namespace dcfast
