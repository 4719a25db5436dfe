// One fused kernel: CUTLASS's sm_90 main loop (TMA with multicast, wgmma, warp specialised, persistent) and an epilogue
// of our own on the accumulators in registers. No matrix of scores is written.
#pragma once

#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/detail.hpp"
#include "cutlass/epilogue/dispatch_policy.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/kernel/gemm_universal.hpp"

#include "cuda/select.hpp"
#include "cuda/select_kernels.h"

namespace dcfast::select {

constexpr unsigned kWholeWarp = 0xffffffffU;

/// Each row's best two. A thread holds two rows, 8 apart, and of each every fourth pair of columns.
struct BestEpilogue {
  BestTarget target;

  template <class Accumulators, class Coordinates>
  CUTLASS_DEVICE void operator()(Accumulators const& acc, Coordinates const& at, int m, int thread) const {
    using namespace cute;
    CUTE_UNROLL
    for (int mi = 0; mi < size<1>(acc); ++mi) {
      CUTE_UNROLL
      for (int r = 0; r < 2; ++r) {
        BestTwo best;
        CUTE_UNROLL
        for (int ni = 0; ni < size<2>(acc); ++ni) {
          CUTE_UNROLL
          for (int v = 0; v < size<0, 2>(acc); ++v) {
            CUTE_UNROLL
            for (int c = 0; c < 2; ++c) {
              // a constant in the loop: columns are told apart by where they are in the fragment
              best.add(acc(make_coord(c, r, v), mi, ni), static_cast<std::uint32_t>((ni * size<0, 2>(acc) + v) * 8 + c));
            }
          }
        }
        const int row = get<0>(at(make_coord(0, r, 0), mi, 0));
        const int first_column = get<1>(at(make_coord(0, r, 0), mi, 0));
        PackedTwo found{pack(best.first, static_cast<std::uint32_t>(target.first_column + first_column) + best.place),
                        ordered(best.second)};
        CUTE_UNROLL
        for (int lane = 1; lane < 4; lane <<= 1) {
          const PackedTwo other{__shfl_xor_sync(kWholeWarp, found.first, lane),
                                __shfl_xor_sync(kWholeWarp, found.second, lane)};
          found = found.merged(other);
        }
        if ((thread & 3) == 0 && row < m) {
          auto* const best_of = reinterpret_cast<unsigned long long*>(target.best + row);
          unsigned* const second_of = target.second + row;
          enter(
              found, [=](std::uint64_t key) { return atomicMax(best_of, static_cast<unsigned long long>(key)); },
              [=](std::uint32_t score) { atomicMax(second_of, score); });
        }
      }
    }
  }
};

/// Pairs at or above each row's threshold: a maximum a score, and only where a warp has one that passes a second look.
struct AboveEpilogue {
  AboveTarget target;

  template <class Accumulators, class Coordinates>
  CUTLASS_DEVICE void operator()(Accumulators const& acc, Coordinates const& at, int m, int thread) const {
    using namespace cute;
    CUTE_UNROLL
    for (int mi = 0; mi < size<1>(acc); ++mi) {
      float threshold[2];
      bool some = false;
      CUTE_UNROLL
      for (int r = 0; r < 2; ++r) {
        const int row = get<0>(at(make_coord(0, r, 0), mi, 0));
        threshold[r] = row < m ? __ldg(target.threshold + row) : -nothing();
        float highest = nothing();
        CUTE_UNROLL
        for (int ni = 0; ni < size<2>(acc); ++ni) {
          CUTE_UNROLL
          for (int v = 0; v < size<0, 2>(acc); ++v) {
            CUTE_UNROLL
            for (int c = 0; c < 2; ++c) highest = fmaxf(highest, acc(make_coord(c, r, v), mi, ni));
          }
        }
        some |= row < m && passes(highest, threshold[r]);
      }
      if (__any_sync(kWholeWarp, some)) append(acc, at, mi, m, threshold, thread & 31);
    }
  }

 private:
  template <class Accumulators, class Coordinates>
  CUTLASS_DEVICE void append(Accumulators const& acc, Coordinates const& at, int mi, int m, const float (&threshold)[2],
                             int lane) const {
    using namespace cute;
    std::uint32_t mine = 0;
    each_score(acc, mi, threshold, [&](int, int, int) { ++mine; });
    std::uint32_t through = mine;  // the sum up to this lane
    CUTE_UNROLL
    for (int step = 1; step < 32; step <<= 1) {
      const std::uint32_t before = __shfl_up_sync(kWholeWarp, through, step);
      if (lane >= step) through += before;
    }
    unsigned long long base = 0;
    if (lane == 31) base = atomicAdd(target.list.count, static_cast<unsigned long long>(through));
    std::uint64_t place = __shfl_sync(kWholeWarp, base, 31) + through - mine;
    const int row = get<0>(at(make_coord(0, 0, 0), mi, 0));
    const int first_column = get<1>(at(make_coord(0, 0, 0), mi, 0)) + target.first_column;
    each_score(acc, mi, threshold, [&](int r, int block, int c) {
      target.list.put(place, pair_key(static_cast<std::uint32_t>(row + 8 * r), static_cast<std::uint32_t>(first_column + block * 8 + c)));
      ++place;
    });
  }

  template <class Accumulators, class Action>
  CUTLASS_DEVICE static void each_score(Accumulators const& acc, int mi, const float (&threshold)[2], Action action) {
    using namespace cute;
    CUTE_UNROLL
    for (int r = 0; r < 2; ++r) {
      CUTE_UNROLL
      for (int ni = 0; ni < size<2>(acc); ++ni) {
        CUTE_UNROLL
        for (int v = 0; v < size<0, 2>(acc); ++v) {
          CUTE_UNROLL
          for (int c = 0; c < 2; ++c) {
            const float score = acc(make_coord(c, r, v), mi, ni);
            // what stands beyond the last column, and what a row beyond the last has for a threshold, are infinite
            if (passes(score, threshold[r]) && score > nothing()) action(r, ni * int(size<0, 2>(acc)) + v, c);
          }
        }
      }
    }
  }
};

/// What CUTLASS's kernels call for an epilogue, without a matrix that is read or written.
template <class Epilogue>
class Collective {
 public:
  using EpilogueSchedule = cutlass::gemm::EpilogueDefault;
  using DispatchPolicy = EpilogueSchedule;
  using ElementOutput = float;
  using ElementAccumulator = float;
  using ElementCompute = float;
  using ElementScalar = float;
  using ElementC = float;
  using ElementD = float;
  using StrideC = cute::Stride<std::int64_t, cute::_1, std::int64_t>;
  using StrideD = StrideC;
  using GmemTiledCopyC = void;
  using GmemTiledCopyD = void;
  struct ThreadEpilogueOp {
    using ElementOutput = float;
    using ElementAccumulator = float;
    using ElementCompute = float;
    using ElementD = float;
    struct Params {};
    static constexpr int kCount = 1;
  };
  static const int kOutputAlignment = 1;
  struct SharedStorage {};
  using TensorStorage = SharedStorage;
  using Arguments = Epilogue;
  using Params = Epilogue;

  template <class Shape>
  static constexpr Params to_underlying_arguments(Shape const&, Arguments const& arguments, void*) {
    return arguments;
  }
  template <class Shape>
  static size_t get_workspace_size(Shape const&, Arguments const&) {
    return 0;
  }
  template <class Shape>
  static cutlass::Status initialize_workspace(Shape const&, Arguments const&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }
  template <class Shape>
  static bool can_implement(Shape const&, Arguments const&) {
    return true;
  }
  CUTLASS_HOST_DEVICE explicit Collective(Params const& params, SharedStorage const& = SharedStorage())
      : epilogue_(params) {}
  CUTLASS_DEVICE bool is_source_needed() { return false; }

  template <class Shape, class Tile, class Coordinate, class Engine, class Layout, class Mma, class Residue>
  CUTLASS_DEVICE void operator()(Shape shape, Tile tile, Coordinate coordinate, cute::Tensor<Engine, Layout> const& acc,
                                 Mma mma, Residue, int thread, char*) {
    using namespace cute;
    const int m = get<0>(shape);
    const int n = get<1>(shape);
    auto [row_tile, col_tile, depth_tile, batch] = coordinate;
    auto scores = local_tile(make_identity_tensor(make_shape(m, n)), take<0, 2>(tile), make_coord(row_tile, col_tile));
    auto at = mma.get_thread_slice(thread).partition_C(scores);  // the coordinates of each accumulator
    auto inside = make_fragment_like(acc);
    copy(acc, inside);
    if ((col_tile + 1) * size<1>(tile) > n) {  // the edge: TMA gave zeros beyond the last column
      CUTE_UNROLL
      for (int i = 0; i < size(inside); ++i) {
        if (get<1>(at(i)) >= n) inside(i) = nothing();
      }
    }
    epilogue_(inside, at, m, thread);
  }

 private:
  Params epilogue_;
};

using Cooperative = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
using PingPong = cutlass::gemm::KernelTmaWarpSpecializedPingpong;

/// The tile of a schedule: 64 rows and 256 columns for each warpgroup, so 128 accumulators a thread.
template <class Schedule>
using TileOf = cute::Shape<std::conditional_t<std::is_same_v<Schedule, PingPong>, cute::_64, cute::_128>, cute::_256, cute::_64>;

/// Launches on the current device; a code of dcfast_cuda_error_string.
template <class Element, class Epilogue, class Schedule>
int launch(const dcfast_select_problem& problem, const Epilogue& epilogue, cudaStream_t stream) {
  using namespace cute;
  using Cluster = Shape<_2, _1, _1>;  // two blocks of rows share the columns that TMA brings
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor, 8, Element,
      cutlass::layout::ColumnMajor, 8, float, TileOf<Schedule>, Cluster, cutlass::gemm::collective::StageCount<4>,
      Schedule>::CollectiveOp;
  using Adapter = cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<Collective<Epilogue>>;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Adapter,
                                                      cutlass::gemm::PersistentScheduler>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

  int device = 0;
  if (const cudaError_t err = cudaGetDevice(&device); err != cudaSuccess) return err;
  cutlass::KernelHardwareInfo hardware;
  hardware.device_id = device;
  hardware.sm_count = cutlass::KernelHardwareInfo::query_device_multiprocessor_count(device);
  const std::int64_t stride = problem.depth;
  typename Kernel::TileScheduler::Arguments schedule;
  schedule.max_swizzle_size = 8;  // tiles in work at a time form a square: what they share comes from L2
  const typename Gemm::Arguments arguments{
      cutlass::gemm::GemmUniversalMode::kGemm,
      {problem.row_count, problem.col_count, problem.depth, 1},
      {static_cast<const Element*>(problem.rows), {stride, _1{}, 0}, static_cast<const Element*>(problem.cols),
       {stride, _1{}, 0}},
      epilogue,
      hardware,
      schedule};
  if (Gemm::can_implement(arguments) != cutlass::Status::kSuccess || Gemm::get_workspace_size(arguments) != 0) {
    return DCFAST_CUDA_BAD_SHAPE;
  }
  Gemm gemm;
  cutlass::Status status = gemm.initialize(arguments, nullptr, stream);
  if (status == cutlass::Status::kSuccess) status = gemm.run(stream);
  const cudaError_t err = cudaGetLastError();
  if (err != cudaSuccess) return err;
  return status == cutlass::Status::kSuccess ? cudaSuccess : cudaErrorLaunchFailure;
}

}  // namespace dcfast::select
