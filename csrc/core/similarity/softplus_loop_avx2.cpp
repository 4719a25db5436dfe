// Compiled with -mavx2.
#include "core/similarity/softplus_loop.hpp"

namespace dcfast::avx2 {

void add_softplus(const SoftplusPart& part, SoftplusSums& sums) { dcfast::add_softplus(part, sums); }

}  // namespace dcfast::avx2
