#include "core/system/cpu.hpp"

#include <cstdlib>
#include <string_view>

namespace dcfast {

namespace {

#ifdef DCFAST_HAVE_AVX2
std::string_view asked_isa() {
  const char* const isa = std::getenv("DCFAST_ISA");
  return isa == nullptr ? std::string_view() : isa;
}
#endif

}  // namespace

bool have_avx2() {
#ifdef DCFAST_HAVE_AVX2
  static const bool wide = asked_isa() != "baseline" && __builtin_cpu_supports("avx2") != 0;
  return wide;
#else
  return false;
#endif
}

bool have_avx512_popcount() {
#ifdef DCFAST_HAVE_AVX2
  static const bool wide = have_avx2() && asked_isa() != "avx2" && __builtin_cpu_supports("avx512f") != 0 &&
                           __builtin_cpu_supports("avx512vpopcntdq") != 0;
  return wide;
#else
  return false;
#endif
}

}  // namespace dcfast
