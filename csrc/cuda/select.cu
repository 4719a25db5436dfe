// The C ABI of the fused kernels: which kernel, which card, and a word where there is none.
#include "cuda/select.h"

#include <cuda_runtime.h>

#include "cuda/select_kernels.h"

namespace {

bool fits(const dcfast_select_problem& p) {
  const bool aligned = (reinterpret_cast<std::uintptr_t>(p.rows) | reinterpret_cast<std::uintptr_t>(p.cols)) % 16 == 0;
  return aligned && p.row_count > 0 && p.col_count > 0 && p.depth > 0 && p.depth % 8 == 0 && p.first_column >= 0 &&
         p.first_column <= INT32_MAX - p.col_count && p.row_count <= INT32_MAX - 256 && p.col_count <= INT32_MAX - 256;
}

/// Runs `launch` with the device made current, and the one before it again afterwards.
template <typename Launch>
int on_card(const dcfast_select_problem& problem, int32_t device, Launch launch) {
#ifdef DCFAST_HAVE_SELECT
  if (!fits(problem)) return DCFAST_CUDA_BAD_SHAPE;
  int before = 0;
  cudaError_t err = cudaGetDevice(&before);
  if (err == cudaSuccess) err = cudaSetDevice(device);
  if (err != cudaSuccess) return err;
  int major = 0;
  int minor = 0;
  err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (err == cudaSuccess) err = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  int code = err;
  if (code == cudaSuccess) code = major == 9 && minor == 0 ? launch() : DCFAST_CUDA_NOT_FOR_THIS_CARD;
  err = cudaSetDevice(before);
  return code != cudaSuccess ? code : err;
#else
  (void)problem, (void)device, (void)launch;
  return DCFAST_CUDA_NOT_BUILT;
#endif
}

}  // namespace

int32_t dcfast_select_built(void) {
#ifdef DCFAST_HAVE_SELECT
  return 1;
#else
  return 0;
#endif
}

int dcfast_select_best(const dcfast_select_problem* problem, uint64_t* best, uint32_t* second, int32_t device,
                       void* stream) {
  return on_card(*problem, device, [&]() -> int {
#ifdef DCFAST_HAVE_SELECT
    using namespace dcfast::select;
    const BestTarget target{best, second, problem->first_column};
    const bool together = problem->schedule == DCFAST_SELECT_COOPERATIVE;
    const auto run = problem->dtype == DCFAST_SELECT_BF16 ? (together ? best_bf16_cooperative : best_bf16_pingpong)
                                                          : (together ? best_fp16_cooperative : best_fp16_pingpong);
    return run(*problem, target, static_cast<cudaStream_t>(stream));
#else
    (void)best, (void)second, (void)stream;
    return DCFAST_CUDA_NOT_BUILT;
#endif
  });
}

int dcfast_select_above(const dcfast_select_problem* problem, const float* threshold, uint64_t* keys, uint64_t capacity,
                        unsigned long long* count, int32_t device, void* stream) {
  return on_card(*problem, device, [&]() -> int {
#ifdef DCFAST_HAVE_SELECT
    using namespace dcfast::select;
    const AboveTarget target{threshold, {keys, count, capacity}, problem->first_column};
    const bool together = problem->schedule == DCFAST_SELECT_COOPERATIVE;
    const auto run = problem->dtype == DCFAST_SELECT_BF16 ? (together ? above_bf16_cooperative : above_bf16_pingpong)
                                                          : (together ? above_fp16_cooperative : above_fp16_pingpong);
    return run(*problem, target, static_cast<cudaStream_t>(stream));
#else
    (void)threshold, (void)keys, (void)capacity, (void)count, (void)stream;
    return DCFAST_CUDA_NOT_BUILT;
#endif
  });
}
