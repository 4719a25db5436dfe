#include "core/similarity/select_kernels.hpp"

#include <cstdlib>
#include <string_view>

#include "core/system/cpu.hpp"

namespace dcfast {

const SelectKernels& select_kernels() {
#ifdef DCFAST_HAVE_AVX2
  static const SelectKernels& chosen = []() -> const SelectKernels& {
    const char* const asked = std::getenv("DCFAST_ISA");
    const std::string_view isa = asked == nullptr ? "" : asked;
    const bool v3 = have_avx2() && __builtin_cpu_supports("fma") != 0 && __builtin_cpu_supports("f16c") != 0;
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
