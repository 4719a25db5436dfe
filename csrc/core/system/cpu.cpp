#include "core/system/cpu.hpp"

#include <cstdlib>
#include <string_view>

namespace dcfast {

bool have_avx2() {
#ifdef DCFAST_HAVE_AVX2
  static const bool wide = [] {
    const char* const asked = std::getenv("DCFAST_ISA");
    const bool refused = asked != nullptr && std::string_view(asked) == "baseline";
    return !refused && __builtin_cpu_supports("avx2") != 0;
  }();
  return wide;
#else
  return false;
#endif
}

}  // namespace dcfast
