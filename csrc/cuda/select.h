/* Fused products and selections: the scores rows x cols^T of half precision matrices, of which only what is asked for
   leaves the chip. Screening: scores are float32 sums in the order of the hardware, callers rescore. */
#ifndef DCFAST_CUDA_SELECT_H
#define DCFAST_CUDA_SELECT_H

#include <stdint.h>

#include "cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Codes beside cudaError_t's, for dcfast_cuda_error_string too. */
enum {
  DCFAST_CUDA_NOT_FOR_THIS_CARD = -1, /* the kernels are for compute capability 9.0 */
  DCFAST_CUDA_NOT_BUILT = -2,         /* this library was built without CUTLASS */
  DCFAST_CUDA_BAD_SHAPE = -3          /* empty, depth no multiple of 8, or not aligned to 16 bytes */
};

enum { DCFAST_SELECT_BF16 = 0, DCFAST_SELECT_FP16 = 1 };
/* How the two consumer warpgroups share the work: one tile together, or a tile each in turns. */
enum { DCFAST_SELECT_COOPERATIVE = 0, DCFAST_SELECT_PINGPONG = 1 };

/* Matrices on the device, row-major and dense, rows of `depth` elements. Column j is reported as first_column + j. */
typedef struct {
  const void* rows;
  const void* cols;
  int32_t row_count;
  int32_t col_count;
  int32_t depth;
  int32_t dtype;
  int32_t schedule;
  int32_t first_column;
} dcfast_select_problem;

/* Whether kernels are in this library (not whether the card can run them). */
DCFAST_CUDA_API int32_t dcfast_select_built(void);
/* The two highest scores of each row. best: (row_count,) ordered bits of the score << 32 | ~column; second:
   (row_count,) ordered bits of the next score, of a tie the same. Both are joined to what they hold: begin with zeros. */
DCFAST_CUDA_API int dcfast_select_best(const dcfast_select_problem* problem, uint64_t* best, uint32_t* second,
                                       int32_t device, void* stream);
/* Pairs with score >= threshold[row], in no order: row << 32 | column from keys[*count] on; *count goes on beyond the
   capacity, and what does not fit is not written. */
DCFAST_CUDA_API int dcfast_select_above(const dcfast_select_problem* problem, const float* threshold, uint64_t* keys,
                                        uint64_t capacity, unsigned long long* count, int32_t device, void* stream);

#ifdef __cplusplus
}
#endif
#endif
