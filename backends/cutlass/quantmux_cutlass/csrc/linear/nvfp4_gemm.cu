// NVFP4 by NVFP4 on Blackwell's block-scaled tensor cores: sm100 (tcgen05) and sm120 (mma.sync).
//
//   y[m, n] = round( RN(g_x * g_w) * sum_k x[m, k] * s_x[m, k/16] * w[n, k] * s_w[n, k/16]
//                    + bias[n] )
//
// with x, w in e2m1 (two to a byte, the even column low), s_x, s_w in ue4m3 in the layout
// swizzled_128x4, g_x, g_w fp32 scalars on the device, bias fp32, y bf16 or fp16. The sum is the
// tensor core's, in fp32; there is one rounding at the end.
//
// Who does what. The tensor core multiplies the scales of 16 values in: they go with the operands,
// by TMA, in tiles of 128 rows x 4 scales, 512 bytes, which is swizzled_128x4 and the reason for
// its name. The kernel is CUTLASS's: a warp that loads, one that multiplies, four that finish a
// tile, and on sm100 the accumulators in tensor memory, so that finishing a tile and multiplying
// the next overlap. Ours are the choice of tiles, the epilogue (nvfp4_epilogue.cuh), and this
// file's C ABI.
//
// K. The TMA unit wants rows of multiples of 16 bytes, so of 32 codes, and the product runs over
// K rounded up to 32; the columns from K on must hold zeros in x, w and both scales, as quantmux's
// padding contract says of every producer and the weights' preparation sees to. A row may be longer
// (padded_n of x): its scales are those of the whole row, so the row's length, not K, says where
// the next tile of scales lies.
// N, M. Free. The scale buffers of x and w are whole tiles of 128 rows x 4 scales: padded, with
// zeros. The store writes whole 16 bytes, so a row of y ends at N rounded up to 8 at the earliest.
//
// Macros: QM_SM (100, 120), QM_TM QM_TN QM_TK the tile, QM_CTAS (1, 2) how many multiprocessors
// share a tile (sm100: two halves of the rows, one instruction for both).
//
// Never run: no Blackwell GPU was at hand. What is known is that it compiles, for which GPUs, and
// which instructions come out (evidence/*.json, tests/backends/cutlass/test_nvfp4_gemm_code.py).
#include "abi.cuh"

// waiting for the kernel in front is compiled in; whether a launch overlaps is QmProblem.pdl
#ifndef CUTLASS_ENABLE_GDC_FOR_SM100
#define CUTLASS_ENABLE_GDC_FOR_SM100 1
#endif

#include <cuda_runtime.h>

#include <type_traits>

#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/detail/sm100_blockscaled_layout.hpp"
#include "cutlass/device_kernel.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/epilogue/fusion/sm100_callbacks_tma_warpspecialized.hpp"
#include "cutlass/epilogue/fusion/sm120_callbacks_tma_warpspecialized.hpp"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"
#include "cutlass/numeric_types.h"
#include "cutlass/version.h"

#include "linear/nvfp4_checks.cuh"
#include "linear/nvfp4_epilogue.cuh"
#include "linear/nvfp4_launch.cuh"

// 4.3.5 works around a driver that encodes descriptors of small tensors wrongly on Blackwell.
#if CUTLASS_MAJOR * 10000 + CUTLASS_MINOR * 100 + CUTLASS_PATCH < 40305
#error "quantmux: NVFP4 on Blackwell needs CUTLASS 4.3.5 or later"
#endif
#if QM_SM != 100 && QM_SM != 120
#error "quantmux: QM_SM is 100 or 120"
#endif
// The letter of the target is abi.cuh's to check; this is the family. Without it the body of the
// kernel of another family would compile to nothing.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ / 100 != QM_SM / 10
#error "quantmux: this tile is for another family: QM_SM 100 for 100f, 120 for 120f"
#endif
#if QM_CTAS != 1 && !(QM_CTAS == 2 && QM_SM == 100)
#error "quantmux: QM_CTAS is 1, or 2 on sm100"
#endif

// Not an anonymous namespace: the headers have one in cute, and where both are visible the host
// code that nvcc writes cannot tell them apart. Symbols of a library are hidden unless QM_API.
namespace quantmux {
namespace nvfp4 {

using namespace cute;

using Operand = cutlass::nv_float4_t<cutlass::float_e2m1_t>;
using Code = typename Operand::DataType;
using Scale = typename Operand::ScaleFactorType;
using Out = cutlass::bfloat16_t;  // or fp16's bits, see ScaleAddRound
using Arch = std::conditional_t<QM_SM == 100, cutlass::arch::Sm100, cutlass::arch::Sm120>;
using Tile = Shape<Int<QM_TM>, Int<QM_TN>, Int<QM_TK>>;
using OwnTile = Shape<Int<QM_TM / QM_CTAS>, Int<QM_TN>, Int<QM_TK>>;  // of one multiprocessor
using Cluster = Shape<Int<QM_CTAS>, _1, _1>;
using RowMajor = cutlass::layout::RowMajor;
using ColumnMajor = cutlass::layout::ColumnMajor;
static_assert(kOutRow * sizeof(Out) == 16, "rows of y are multiples of 16 bytes");

#if QM_SM == 120
// automatic is cooperative: two groups of warps multiply one tile
using Schedule = cutlass::gemm::collective::KernelScheduleAuto;
using Finish = cutlass::epilogue::collective::EpilogueScheduleAuto;
#elif QM_CTAS == 2
using Schedule = cutlass::gemm::KernelTmaWarpSpecialized2SmNvf4Sm100;
using Finish = cutlass::epilogue::TmaWarpSpecialized2Sm;
#else
using Schedule = cutlass::gemm::KernelTmaWarpSpecialized1SmNvf4Sm100;
using Finish = cutlass::epilogue::TmaWarpSpecialized1Sm;
#endif

// round(alpha * sum + bias): one fused multiply-add in fp32, one conversion
using Bias = tree::Sm90RowBroadcast<0, OwnTile, float, float, Stride<_0, _1, int64_t>>;
using Last = tree::Sm90EVT<
    tree::Sm90Compute<ScaleAddRound, Out, float, cutlass::FloatRoundStyle::round_to_nearest>,
    GlobalScales, tree::Sm90AccFetch, Bias>;

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    Arch, cutlass::arch::OpClassBlockScaledTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, RowMajor, kOutRow, Out,
    RowMajor, kOutRow, Finish, Last>::CollectiveOp;
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    Arch, cutlass::arch::OpClassBlockScaledTensorOp, Operand, RowMajor, kRowCodes, Operand,
    ColumnMajor, kRowCodes, float, Tile, Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
        sizeof(typename Epilogue::SharedStorage))>,
    Schedule>::CollectiveOp;
using Kernel =
    cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Mainloop, Epilogue, void>;
using Params = typename Kernel::Params;
using ScaleLayout = typename Mainloop::Sm1xxBlkScaledConfig;

// The descriptors inside are read by the TMA unit from the kernel's parameters: 64-byte addresses.
static_assert(alignof(Params) >= 64, "TMA descriptors in Params must lie at multiples of 64 bytes");
static_assert(sizeof(Params) <= 4096, "kernel parameters of more than 4 KiB need newer drivers");
// What a block may opt in to: 227 KiB on 10.x, 99 KiB on 12.x.
static_assert(Kernel::SharedStorageSize <= (QM_SM == 120 ? 99 : 227) * 1024,
              "too much shared memory for this family");

struct Plan {
  QmProblem problem;
  int k;  // columns that are multiplied: K rounded up to whole 16 bytes of codes
};

typename Kernel::Arguments arguments(Plan const& plan, void const* x, int64_t x_row,
                                     void const* x_scales, void const* x_global, void* y,
                                     int64_t y_row, int m) {
  QmProblem const& p = plan.problem;
  auto const shape = make_shape(m, p.n, plan.k, 1);
  auto const x_shape = make_shape(m, p.n, static_cast<int>(x_row), 1);
  auto const w_shape = make_shape(m, p.n, static_cast<int>(p.w_row), 1);
  typename Kernel::StrideA x_stride = make_stride(x_row, _1{}, int64_t(0));
  typename Kernel::StrideB w_stride = make_stride(p.w_row, _1{}, int64_t(0));
  typename Kernel::StrideD y_stride = make_stride(y_row, _1{}, int64_t(0));
  typename Kernel::Arguments args{};
  args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  args.problem_shape = shape;
  args.mainloop = {static_cast<Code const*>(x),
                   x_stride,
                   static_cast<Code const*>(p.w),
                   w_stride,
                   static_cast<Scale const*>(x_scales),
                   ScaleLayout::tile_atom_to_shape_SFA(x_shape),
                   static_cast<Scale const*>(p.w_scales),
                   ScaleLayout::tile_atom_to_shape_SFB(w_shape)};
  GlobalScales::Arguments const globals{static_cast<float const*>(x_global), p.alpha};
  typename Bias::Arguments const bias{p.bias, 0.0f, {}};
  args.epilogue.thread = {globals, {}, bias, OutputType{p.out}};
  args.epilogue.ptr_D = static_cast<Out*>(y);
  args.epilogue.dD = y_stride;
  args.hw_info.device_id = p.device;
  args.hw_info.sm_count = p.sms;
  return args;
}

}  // namespace nvfp4
}  // namespace quantmux

using namespace quantmux::nvfp4;
using quantmux::encoded;

QM_API int qm_abi() { return QM_ABI_VERSION; }

#define QM_TEXT2(x) #x
#define QM_TEXT(x) QM_TEXT2(x)
QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=" QM_TEXT(CUTLASS_MAJOR) "." QM_TEXT(
      CUTLASS_MINOR) "." QM_TEXT(CUTLASS_PATCH) ";digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

// problem.alpha is g_w; w_scales_row is the width of the padded scale buffer, C4(w_row / 16).
QM_API int qm_plan(QmProblem const* problem, void* plan) {
  if (!problem || !plan) return QM_NULL;
  if (!aligned(plan, 64)) return QM_ALIGNMENT;
  if (int bad = check_problem(*problem)) return bad;
  if (int bad = quantmux::prepare_kernel<Kernel>(problem->device)) return bad;
  auto& made = *static_cast<Plan*>(plan);
  made.problem = *problem;
  made.k = static_cast<int>(up(problem->k, kRowCodes));
  return QM_OK;
}

// x [m, x_row / 2 bytes], x_scales e4m3 [R128(m), C4(x_row / 16)] swizzled_128x4, x_global fp32
// [1], y [m, y_row]. Columns of y from N to N rounded up to 8 may be written.
QM_API int qm_run_at(void const* plan, void const* x, int64_t x_row, void const* x_scales,
                     void const* x_global, void* y, int64_t y_row, int64_t m, void* stream) {
  if (!plan) return QM_NULL;
  if (m == 0) return QM_OK;
  auto const& made = *static_cast<Plan const*>(plan);
  QmProblem const& p = made.problem;
  if (int bad = check_call(p, x, x_row, x_scales, x_global, y, y_row, m)) return bad;
  auto const args = arguments(made, x, x_row, x_scales, x_global, y, y_row, static_cast<int>(m));
  Params params = Kernel::to_underlying_arguments(args, nullptr);
  auto const& in = params.mainloop;
  // extents and addresses are new in every call: what the driver refuses must not be launched
  if (!encoded(in.tma_load_a) || !encoded(in.tma_load_b) || !encoded(in.tma_load_sfa) ||
      !encoded(in.tma_load_sfb) || !encoded(params.epilogue.tma_store_d)) {
    return QM_DESCRIPTOR;
  }
  return quantmux::launch<Kernel>(params, p.device, p.pdl != 0, stream);
}

QM_API int qm_run(void const* plan, void const* x, void const* x_scales, void const* x_global,
                  void* y, int64_t m, void* stream) {
  if (!plan) return QM_NULL;
  QmProblem const& p = static_cast<Plan const*>(plan)->problem;
  return qm_run_at(plan, x, p.x_row, x_scales, x_global, y, p.y_row, m, stream);
}
