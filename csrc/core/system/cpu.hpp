// What this machine's processor can do.
#pragma once

namespace dcfast {

/// Whether code compiled for AVX2 can run here. DCFAST_ISA=baseline says no: for tests, all results are the same.
bool have_avx2();

}  // namespace dcfast
