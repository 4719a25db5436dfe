#include "cuda/select_gemm.cuh"

namespace dcfast::select {

int above_fp16_cooperative(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream) {
  return launch<cutlass::half_t, AboveEpilogue, Cooperative>(problem, {target}, stream);
}

int above_fp16_pingpong(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream) {
  return launch<cutlass::half_t, AboveEpilogue, PingPong>(problem, {target}, stream);
}

}  // namespace dcfast::select
