// The C ABI of the fused kernels: which kernel, which card, and a code of its own where there is none.
#include "cuda/select.h"

#include <cuda_runtime.h>

#include "cuda/select_kernels.h"

#ifdef DCFAST_HAVE_SELECT

namespace {

using namespace dcfast::select;

bool fits(const dcfast_select_problem& p) {
  const bool aligned = (reinterpret_cast<std::uintptr_t>(p.rows) | reinterpret_cast<std::uintptr_t>(p.cols)) % 16 == 0;
  return aligned && p.row_count > 0 && p.col_count > 0 && p.depth > 0 && p.depth % 8 == 0 && p.first_column >= 0 &&
         p.first_column <= INT32_MAX - p.col_count && p.row_count <= INT32_MAX - 4096 && p.col_count <= INT32_MAX - 4096;
}

/// Runs `launch` with the device made current, and the one before it again afterwards.
template <typename Launch>
int on_card(const dcfast_select_problem& problem, int32_t device, Launch launch) {
  if (!fits(problem)) return DCFAST_CUDA_BAD_SHAPE;
  int before = 0;
  int major = 0;
  int minor = 0;
  cudaError_t err = cudaGetDevice(&before);
  if (err == cudaSuccess) err = cudaSetDevice(device);
  if (err != cudaSuccess) return err;
  err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (err == cudaSuccess) err = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  int code = err;
  if (code == cudaSuccess) code = major == 9 && minor == 0 ? launch() : DCFAST_CUDA_NOT_FOR_THIS_CARD;
  err = cudaSetDevice(before);
  return code != cudaSuccess ? code : err;
}

}  // namespace

int32_t dcfast_select_built(void) { return 1; }

int dcfast_select_best(const dcfast_select_problem* problem, uint64_t* best, uint32_t* second, int32_t device,
                       void* stream) {
  return on_card(*problem, device, [&]() -> int {
    const BestTarget target{best, second, problem->first_column};
    const bool together = problem->schedule == DCFAST_SELECT_COOPERATIVE;
    const auto run = problem->dtype == DCFAST_SELECT_BF16 ? (together ? best_bf16_cooperative : best_bf16_pingpong)
                                                          : (together ? best_fp16_cooperative : best_fp16_pingpong);
    return run(*problem, target, static_cast<cudaStream_t>(stream));
  });
}

int dcfast_select_above(const dcfast_select_problem* problem, const float* threshold, uint64_t* keys, uint64_t capacity,
                        unsigned long long* count, int32_t device, void* stream) {
  return on_card(*problem, device, [&]() -> int {
    const AboveTarget target{threshold, {keys, count, capacity}, problem->first_column};
    const bool together = problem->schedule == DCFAST_SELECT_COOPERATIVE;
    const auto run = problem->dtype == DCFAST_SELECT_BF16 ? (together ? above_bf16_cooperative : above_bf16_pingpong)
                                                          : (together ? above_fp16_cooperative : above_fp16_pingpong);
    return run(*problem, target, static_cast<cudaStream_t>(stream));
  });
}

#else  // no CUTLASS

int32_t dcfast_select_built(void) { return 0; }

int dcfast_select_best(const dcfast_select_problem*, uint64_t*, uint32_t*, int32_t, void*) {
  return DCFAST_CUDA_NOT_BUILT;
}

int dcfast_select_above(const dcfast_select_problem*, const float*, uint64_t*, uint64_t, unsigned long long*, int32_t,
                        void*) {
  return DCFAST_CUDA_NOT_BUILT;
}

#endif
