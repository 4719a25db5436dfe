// What this machine's processor can do.
#pragma once

namespace dcfast {

/// Whether code compiled for AVX2 can run here. DCFAST_ISA=baseline says no: for tests, all results are the same.
bool have_avx2();

/// Whether code compiled for AVX-512 with VPOPCNTDQ can run here; DCFAST_ISA=baseline and DCFAST_ISA=avx2 say no.
bool have_avx512_popcount();

}  // namespace dcfast
