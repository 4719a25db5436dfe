#include "cuda/select_gemm.cuh"

namespace dcfast::select {

int best_fp16_cooperative(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream) {
  return launch<cutlass::half_t, BestEpilogue, Cooperative>(problem, {target}, stream);
}

int best_fp16_pingpong(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream) {
  return launch<cutlass::half_t, BestEpilogue, PingPong>(problem, {target}, stream);
}

}  // namespace dcfast::select
