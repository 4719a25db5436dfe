// Compiled with -mavx512f -mavx512bw -mavx512vnni -mf16c -ffp-contract=off.
#include "core/similarity/select_avx512_loop.hpp"

namespace dcfast::vnni {

const SelectKernels select_kernels{"vnni", row_shape, encode_row, to_double, exact_score<false>, exact_score<true>, strip<false>, strip<true>};

}  // namespace dcfast::vnni
