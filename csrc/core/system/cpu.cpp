#include "core/system/cpu.hpp"

#include <cstdlib>
#include <string_view>

namespace dcfast {

bool have_avx2() {
#ifdef DCFAST_HAVE_AVX2
  static const bool wide = [] {
    const char* const isa = std::getenv("DCFAST_ISA");
    const bool refused = isa != nullptr && std::string_view(isa) == "baseline";
    return !refused && __builtin_cpu_supports("avx2") != 0;
  }();
  return wide;
#else
  return false;
#endif
}

}  // namespace dcfast
