// Compiled with -mavx512f -mavx512bw -mf16c -ffp-contract=off.
#include "core/similarity/select_avx512_loop.hpp"

namespace dcfast::avx512 {

const SelectKernels select_kernels{"avx512", row_shape, encode_row, to_double, exact_score<false>, exact_score<true>, strip<false>, strip<true>};

}  // namespace dcfast::avx512
