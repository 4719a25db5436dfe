// What select.cu launches: one function a kernel, each in a file of its own, since each takes a compiler a while.
#pragma once

#include <cuda_runtime.h>

#include "cuda/select.h"
#include "cuda/select.hpp"

namespace dcfast::select {

struct BestTarget {
  std::uint64_t* best;
  std::uint32_t* second;
  int first_column;
};

struct AboveTarget {
  const float* threshold;
  PairList list;
  int first_column;
};

int best_bf16_cooperative(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream);
int best_fp16_cooperative(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream);
int best_bf16_pingpong(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream);
int best_fp16_pingpong(const dcfast_select_problem& problem, const BestTarget& target, cudaStream_t stream);
int above_bf16_cooperative(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream);
int above_fp16_cooperative(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream);
int above_bf16_pingpong(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream);
int above_fp16_pingpong(const dcfast_select_problem& problem, const AboveTarget& target, cudaStream_t stream);

}  // namespace dcfast::select
