// Device queries and a self test: what `dcfast doctor` asks before anything relies on the card.
#include "cuda/device.h"

#include "cuda/select.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

namespace {

constexpr int kCount = 1024;

__global__ void fill_squares(unsigned* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < kCount) out[i] = i * i;
}

int run_self_test(cudaStream_t stream) {
  unsigned* device = nullptr;
  unsigned host[kCount];
  std::memset(host, 0xff, sizeof host);
  cudaError_t err = cudaMalloc(&device, sizeof host);
  if (err != cudaSuccess) return err;
  fill_squares<<<kCount / 256, 256, 0, stream>>>(device);
  err = cudaGetLastError();
  if (err == cudaSuccess) err = cudaMemcpyAsync(host, device, sizeof host, cudaMemcpyDeviceToHost, stream);
  if (err == cudaSuccess) err = cudaStreamSynchronize(stream);
  const cudaError_t freed = cudaFree(device);
  if (err == cudaSuccess) err = freed;
  if (err != cudaSuccess) return err;
  for (unsigned i = 0; i < kCount; ++i)
    if (host[i] != i * i) return cudaErrorUnknown;
  return cudaSuccess;
}

}  // namespace

int dcfast_cuda_device_count(int32_t* count) {
  *count = 0;
  int n = 0;
  const cudaError_t err = cudaGetDeviceCount(&n);
  if (err == cudaSuccess) *count = n;
  return err;
}

int dcfast_cuda_device_info(int32_t device, dcfast_cuda_device* out) {
  cudaDeviceProp prop;
  const cudaError_t err = cudaGetDeviceProperties(&prop, device);
  if (err != cudaSuccess) return err;
  std::memset(out, 0, sizeof *out);
  std::snprintf(out->name, sizeof out->name, "%s", prop.name);
  out->compute_major = prop.major;
  out->compute_minor = prop.minor;
  out->multiprocessors = prop.multiProcessorCount;
  out->memory_bytes = prop.totalGlobalMem;
  return cudaSuccess;
}

int dcfast_cuda_self_test(int32_t device, void* stream) {
  int before = 0;
  cudaError_t err = cudaGetDevice(&before);
  if (err == cudaSuccess) err = cudaSetDevice(device);
  if (err != cudaSuccess) return err;
  const int result = run_self_test(static_cast<cudaStream_t>(stream));
  err = cudaSetDevice(before);
  return result != cudaSuccess ? result : err;
}

const char* dcfast_cuda_error_string(int code) {
  switch (code) {
    case DCFAST_CUDA_NOT_FOR_THIS_CARD:
      return "the fused kernels are for cards of compute capability 9.0 (H100, H200)";
    case DCFAST_CUDA_NOT_BUILT:
      return "this build has no fused kernels: CUTLASS was not found";
    case DCFAST_CUDA_BAD_SHAPE:
      return "the fused kernels want rows and columns, a depth that is a multiple of 8, and 16-byte alignment";
    default:
      return cudaGetErrorString(static_cast<cudaError_t>(code));
  }
}

int32_t dcfast_cuda_build_version(void) { return CUDART_VERSION; }
