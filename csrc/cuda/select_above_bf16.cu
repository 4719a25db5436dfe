#include "cuda/select_gemm.cuh"

namespace dcfast::select {

int above_bf16_cooperative(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream) {
  return launch<cutlass::bfloat16_t, AboveEpilogue, Cooperative>(problem, {target}, stream);
}

int above_bf16_pingpong(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream) {
  return launch<cutlass::bfloat16_t, AboveEpilogue, PingPong>(problem, {target}, stream);
}

}  // namespace dcfast::select
