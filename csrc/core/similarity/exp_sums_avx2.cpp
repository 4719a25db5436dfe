// Compiled with -mavx2.
#include "core/similarity/exp_tile.hpp"

namespace dcfast::avx2 {

void add_strip(const ExpStrip& strip) { dcfast::add_strip(strip); }

}  // namespace dcfast::avx2
