// Compiled with -mavx2.
#include "core/images/blur_avx2.hpp"

#include "core/images/blur_loop.hpp"

namespace dcfast::avx2 {

void weighted_sum(const float* rows, const float* weights, std::size_t count, float* out) noexcept {
  weighted_sum_loop(rows, weights, count, out);
}

}  // namespace dcfast::avx2
