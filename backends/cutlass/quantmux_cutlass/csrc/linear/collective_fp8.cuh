// FP8 (e4m3) GEMM for SM90 out of CUTLASS's CollectiveBuilder: y[M, N] = x[M, K] · w[N, K]^T with
// scales, bias and output type in the epilogue. One configuration per library, by macros:
//
//   QM_TM QM_TN        tile: rows of x and rows of w of one thread block
//   QM_CM QM_CN        cluster: blocks along M share the tile of w (multicast), along N that of x
//   QM_COOPERATIVE     0 ping-pong: two math groups take turns, one stores while the other
//                      multiplies. 1: both work on one tile, for tiles too large for one group
//   QM_EXACT           1: sums of 128 products go into fp32 registers (the tensor core's own
//                      accumulator keeps fewer bits)
//   QM_DIRECT          1: y by plain stores, of any alignment. 0: by TMA, rows in steps of 16 bytes
//   QM_SWAP            1: computes y^T = w · x^T, so that QM_TM runs along N and QM_TN along M
//
// Tiles are 128 deep in K: 128 bytes, one swizzle atom. Stages are as many as fit.
#pragma once
#include "collective_pdl.cuh"

#include "collective_epilogue.cuh"
#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"
#include "cutlass/version.h"

#ifndef QM_TK
#define QM_TK 128
#endif
#ifndef QM_COOPERATIVE
#define QM_COOPERATIVE 0
#endif
#ifndef QM_EXACT
#define QM_EXACT 0
#endif
#ifndef QM_DIRECT
#define QM_DIRECT 0
#endif
#ifndef QM_SWAP
#define QM_SWAP 0
#endif

namespace quantmux {

struct Fp8Gemm {
  static constexpr bool kSwap = QM_SWAP != 0;
  static constexpr bool kDirect = QM_DIRECT != 0;

  using Tile = cute::Shape<cute::Int<QM_TM>, cute::Int<QM_TN>, cute::Int<QM_TK>>;
  using Cluster = cute::Shape<cute::Int<QM_CM>, cute::Int<QM_CN>, cute::_1>;
  using Fp8 = cutlass::float_e4m3_t;
  using Output = cutlass::bfloat16_t;  // or fp16's bits, see ScaleAddRound
  using OutputLayout = std::conditional_t<kSwap, cutlass::layout::ColumnMajor,
                                          cutlass::layout::RowMajor>;
  static constexpr int kBytes = 16;                     // what TMA needs of every row
  static constexpr int kOutputs = kBytes / sizeof(Output);

  using Fast = std::conditional_t<
      QM_COOPERATIVE != 0, cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum,
      cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum>;
  using Exact =
      std::conditional_t<QM_COOPERATIVE != 0, cutlass::gemm::KernelTmaWarpSpecializedCooperative,
                         cutlass::gemm::KernelTmaWarpSpecializedPingpong>;
  using Schedule = std::conditional_t<QM_EXACT != 0, Exact, Fast>;
  using EpilogueSchedule =
      std::conditional_t<QM_COOPERATIVE != 0, cutlass::epilogue::TmaWarpSpecializedCooperative,
                         cutlass::epilogue::TmaWarpSpecialized>;

  // The tree: ScaleAddRound(row scale, column scale · sum, bias).
  static constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
  using PerRow = RowScale<Tile>;
  using PerColumn = ColumnScale<Tile>;
  using Bias = std::conditional_t<
      kSwap,
      fusion::Sm90ColBroadcast<0, Tile, float, float, cute::Stride<cute::_1, cute::_0, int64_t>>,
      fusion::Sm90RowBroadcast<0, Tile, float, float, cute::Stride<cute::_0, cute::_1, int64_t>>>;
  using Scaled = fusion::Sm90EVT<fusion::Sm90Compute<cutlass::multiplies, float, float, kRound>,
                                 PerColumn, fusion::Sm90AccFetch>;
  using Rounded = fusion::Sm90EVT<fusion::Sm90Compute<ScaleAddRound, Output, float, kRound>,
                                  PerRow, Scaled, Bias>;
  using OutputStride = cutlass::gemm::TagToStrideC_t<OutputLayout>;
  using Stored = fusion::Sm90EVT<
      fusion::Sm90AuxStore<0, void, Output, kRound, OutputStride, void, void, 1>, Rounded>;
  using Tree = std::conditional_t<kDirect, Stored, Rounded>;

  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, OutputLayout, kOutputs,
      std::conditional_t<kDirect, void, Output>, OutputLayout, kOutputs, EpilogueSchedule,
      Tree>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Fp8, cutlass::layout::RowMajor, kBytes,
      Fp8, cutlass::layout::ColumnMajor, kBytes, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      Schedule>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<
      cute::Shape<int, int, int, int>, Mainloop, Epilogue, cutlass::gemm::PersistentScheduler>;
  using Adapter = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;
  using Arguments = typename Adapter::Arguments;
  using Params = typename Kernel::Params;

  // What a call adds to the layer.
  struct Call {
    void const* x;
    void const* x_scales;
    void* y;
    int64_t x_row, y_row;
    int m;
  };

  // CUTLASS's arguments of one call. Swapped, the roles of x and w change, and with them scales.
  // A template, so that branches of other configurations are not compiled.
  template <class Self = Fp8Gemm>
  static auto arguments(QmProblem const& p, cutlass::KernelHardwareInfo const& hardware,
                        Call const& call) {
    auto const* const w = static_cast<Fp8 const*>(p.w);
    auto const* const x = static_cast<Fp8 const*>(call.x);
    auto const* const w_scales = static_cast<float const*>(p.w_scales);
    auto const* const x_scales = static_cast<float const*>(call.x_scales);
    bool const w_by_row = p.w_by_row != 0;
    bool const x_by_row = p.x_by_row != 0;

    typename Self::Arguments args{};
    args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    typename Self::OutputStride stride{};
    if constexpr (Self::kSwap) {
      args.problem_shape = cute::make_shape(p.n, call.m, p.k, 1);
      args.mainloop = {w, cute::make_stride(p.w_row, cute::_1{}, int64_t(0)),
                       x, cute::make_stride(call.x_row, cute::_1{}, int64_t(0))};
      cute::get<1>(stride) = call.y_row;
    } else {
      args.problem_shape = cute::make_shape(call.m, p.n, p.k, 1);
      args.mainloop = {x, cute::make_stride(call.x_row, cute::_1{}, int64_t(0)),
                       w, cute::make_stride(p.w_row, cute::_1{}, int64_t(0))};
      cute::get<0>(stride) = call.y_row;
    }
    typename PerRow::Arguments const row{kSwap ? w_scales : x_scales, 1.0f,
                                         {kSwap ? w_by_row : x_by_row, cute::_0{}, 0}};
    typename PerColumn::Arguments const column{kSwap ? x_scales : w_scales, 1.0f,
                                               {cute::_0{}, kSwap ? x_by_row : w_by_row, 0}};
    typename Bias::Arguments const bias{p.bias, 0.0f, {}};
    OutputType const output{p.out};
    auto* const y = static_cast<Output*>(call.y);
    if constexpr (Self::kDirect) {
      args.epilogue.thread = {{row, {column, {}, {}}, bias, output}, {y, stride}};
    } else {
      args.epilogue.thread = {row, {column, {}, {}}, bias, output};
      args.epilogue.ptr_D = y;
      args.epilogue.dD = stride;
    }
    args.hw_info = hardware;
    using Order = cutlass::gemm::kernel::detail::RasterOrderOptions;
    args.scheduler.raster_order = static_cast<Order>(p.option[0]);
    args.scheduler.max_swizzle_size = p.option[1];
    return args;
  }
};

}  // namespace quantmux
