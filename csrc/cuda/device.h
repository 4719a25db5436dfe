/* C ABI of libdcfast_cuda: pointers, sizes and a stream in; an error code out (0, a cudaError_t, or a
   negative one of cuda/select.h). */
#ifndef DCFAST_CUDA_DEVICE_H
#define DCFAST_CUDA_DEVICE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DCFAST_CUDA_API __attribute__((visibility("default")))

typedef struct {
  char name[256];
  int32_t compute_major;
  int32_t compute_minor;
  int32_t multiprocessors;
  int32_t reserved;
  uint64_t memory_bytes;
} dcfast_cuda_device;

/* Number of usable devices; 0 with a non-zero code where there is no driver or no card. */
DCFAST_CUDA_API int dcfast_cuda_device_count(int32_t* count);
DCFAST_CUDA_API int dcfast_cuda_device_info(int32_t device, dcfast_cuda_device* out);
/* Runs a small kernel on `stream` (NULL: the default stream) and checks what it wrote: proof that this
   build's machine code runs on that card. Synchronises. */
DCFAST_CUDA_API int dcfast_cuda_self_test(int32_t device, void* stream);
DCFAST_CUDA_API const char* dcfast_cuda_error_string(int code);
/* The CUDA version this library was built with, as 1000 * major + 10 * minor. */
DCFAST_CUDA_API int32_t dcfast_cuda_build_version(void);

#ifdef __cplusplus
}
#endif
#endif
