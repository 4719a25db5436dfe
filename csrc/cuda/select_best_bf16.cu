#include "cuda/select_gemm.cuh"

namespace dcfast::select {

int best_bf16_cooperative(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream) {
  return launch<cutlass::bfloat16_t, BestEpilogue, Cooperative>(problem, {target}, stream);
}

int best_bf16_pingpong(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream) {
  return launch<cutlass::bfloat16_t, BestEpilogue, PingPong>(problem, {target}, stream);
}

}  // namespace dcfast::select
