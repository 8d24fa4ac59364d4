// Block-scaled FP8 (1 x 128 by 128 x 128) for many tokens out of CUTLASS's CollectiveBuilder: the C ABI
// around its blockwise collective, one cluster shape per library.
//
//   QM_CM QM_CN   cluster: blocks along M share the tile of w (multicast), along N that of x
//
// Tiles are 128 x 128 x 128, two math groups on each (cooperative). 256-row tiles reuse a changed scale
// of w across halves of the tile in releases from 4.3.0 on (NVIDIA/cutlass#3596), 64-row tiles do not
// compile there, and wider ones would lie over two scales of w.
//
// Rows of x and w need 16-byte steps; the scales of x lie as col_major_aligned4 says (TMA); those of
// w as a checkpoint has them. y is stored by TMA: its rows need 16-byte steps too, and up to seven
// columns beyond N may be written.
//
//   option[0]   0: CUTLASS chooses; 1: blocks go along M first; 2: along N first
//   option[1]   1, 2, 4, 8: so many tiles side by side before the order moves on, for the L2 cache
#include "abi.cuh"

#include "collective_pdl.cuh"

#include "collective_epilogue.cuh"
#include "collective_launch.cuh"
#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/detail/blockwise_scale_layout.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"
#include "cutlass/version.h"

namespace quantmux {

template <class T>
struct AddRound {
  using Arguments = OutputType;
};

// round(sum + bias) to the bits of bf16 or fp16; they travel as bf16_t whatever they are.
template <int N>
struct AddRound<cutlass::Array<float, N>> {
  using Arguments = OutputType;
  using Floats = cutlass::Array<float, N>;
  using Bits = cutlass::Array<cutlass::bfloat16_t, N>;
  CUTLASS_HOST_DEVICE Bits operator()(Floats const& sum, Floats const& bias,
                                      OutputType const& output) const {
    cutlass::plus<Floats> add;
    Floats const y = add(sum, bias);
    if (output.half) {
      cutlass::NumericArrayConverter<cutlass::half_t, float, N> round;
      auto const rounded = round(y);
      return reinterpret_cast<Bits const&>(rounded);
    }
    cutlass::NumericArrayConverter<cutlass::bfloat16_t, float, N> round;
    return round(y);
  }
};

struct BlockGemm {
  using Tile = cute::Shape<cute::_128, cute::_128, cute::_128>;
  using Cluster = cute::Shape<cute::Int<QM_CM>, cute::Int<QM_CN>, cute::_1>;
  using Fp8 = cutlass::float_e4m3_t;
  using Output = cutlass::bfloat16_t;  // or fp16's bits
  using RowMajor = cutlass::layout::RowMajor;
  using Scales = cutlass::detail::Sm90BlockwiseScaleConfig<1, 128, 128, cute::GMMA::Major::MN,
                                                           cute::GMMA::Major::K>;
  using LayoutX = decltype(Scales::deduce_layoutSFA());
  using LayoutW = decltype(Scales::deduce_layoutSFB());

  static constexpr auto kRound = cutlass::FloatRoundStyle::round_to_nearest;
  using Bias = fusion::Sm90RowBroadcast<0, Tile, float, float,
                                        cute::Stride<cute::_0, cute::_1, int64_t>>;
  using Rounded = fusion::Sm90EVT<fusion::Sm90Compute<AddRound, Output, float, kRound>,
                                  fusion::Sm90AccFetch, Bias>;
  using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, float, float, void, RowMajor, 8, Output,
      RowMajor, 8, cutlass::epilogue::TmaWarpSpecializedCooperative, Rounded>::CollectiveOp;
  using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Fp8, cute::tuple<RowMajor, LayoutX>, 16,
      Fp8, cute::tuple<cutlass::layout::ColumnMajor, LayoutW>, 16, float, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
          sizeof(typename Epilogue::SharedStorage))>,
      cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8Blockwise>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<
      cute::Shape<int, int, int, int>, Mainloop, Epilogue, cutlass::gemm::PersistentScheduler>;
  using Arguments = typename cutlass::gemm::device::GemmUniversalAdapter<Kernel>::Arguments;

  // What a call adds to the layer.
  struct Call {
    void const* x;
    void const* x_scales;
    void* y;
    int64_t x_row, y_row;
    int m;
  };

  static Arguments arguments(QmProblem const& p, cutlass::KernelHardwareInfo const& hardware,
                             Call const& call) {
    using cute::_0;
    using cute::_1;
    using cute::make_shape;
    using cute::make_stride;
    int const blocks = (p.k + 127) / 128, rows4 = (call.m + 3) / 4 * 4;
    int const w_blocks = (p.n + 127) / 128, w_row = static_cast<int>(p.w_scales_row);
    auto const k_shape = make_shape(cute::_128{}, blocks);
    LayoutX const x_layout = cute::make_layout(
        make_shape(make_shape(_1{}, call.m), k_shape, 1),
        make_stride(make_stride(_0{}, _1{}), make_stride(_0{}, rows4), rows4 * blocks));
    LayoutW const w_layout = cute::make_layout(
        make_shape(make_shape(cute::_128{}, w_blocks), k_shape, 1),
        make_stride(make_stride(_0{}, w_row), make_stride(_0{}, _1{}), w_row * w_blocks));

    Arguments args{};
    args.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    args.problem_shape = make_shape(call.m, p.n, p.k, 1);
    args.mainloop = {static_cast<Fp8 const*>(call.x),
                     make_stride(call.x_row, _1{}, int64_t(0)),
                     static_cast<Fp8 const*>(p.w),
                     make_stride(p.w_row, _1{}, int64_t(0)),
                     static_cast<float const*>(call.x_scales),
                     x_layout,
                     static_cast<float const*>(p.w_scales),
                     w_layout};
    args.epilogue.thread = {{}, {p.bias, 0.0f, {}}, {p.out}};
    args.epilogue.ptr_D = static_cast<Output*>(call.y);
    cute::get<0>(args.epilogue.dD) = call.y_row;
    args.hw_info = hardware;
    using Order = cutlass::gemm::kernel::detail::RasterOrderOptions;
    args.scheduler.raster_order = static_cast<Order>(p.option[0]);
    args.scheduler.max_swizzle_size = p.option[1];
    return args;
  }
};

}  // namespace quantmux

namespace {
using Gemm = quantmux::BlockGemm;
using Kernel = Gemm::Kernel;

struct Plan {
  QmProblem problem;
  cutlass::KernelHardwareInfo hardware;
};
// TMA descriptors inside must stay where TMA finds them.
static_assert(alignof(Kernel::Params) >= 64, "TMA descriptors need 64-byte alignment");

bool aligned(void const* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

int check_strides(QmProblem const& p, int64_t x_row, int64_t y_row) {
  return x_row < p.k || x_row % 16 || y_row < p.n || y_row % 8 ? QM_STRIDE : QM_OK;
}

int check(QmProblem const& p) {
  if (!p.w || !p.w_scales) return QM_NULL;
  if (p.n <= 0 || p.k <= 0 || p.n > INT32_MAX - 512 || p.k > INT32_MAX - 512) return QM_SHAPE;
  if (!aligned(p.w, 16) || !aligned(p.w_scales, 4) || !aligned(p.bias, 4)) return QM_ALIGNMENT;
  if (p.w_row < p.k || p.w_row % 16) return QM_STRIDE;
  int64_t const w_blocks = (p.n + 127) / 128;
  if (p.w_scales_row < (p.k + 127) / 128 || p.w_scales_row * w_blocks > INT32_MAX) {
    return QM_STRIDE;
  }
  if (p.sms <= 0 || p.device < 0 || p.out < 0 || p.out > 1) return QM_OPTION;
  if (p.x_columns != QM_COL_MAJOR_ALIGNED4) return QM_OPTION;
  if (p.option[0] < 0 || p.option[0] > 2) return QM_OPTION;
  int const swizzle = p.option[1];
  if (swizzle != 1 && swizzle != 2 && swizzle != 4 && swizzle != 8) return QM_OPTION;
  return check_strides(p, p.x_row, p.y_row);
}

int run(Plan const& plan, void const* x, int64_t x_row, void const* x_scales, void* y,
        int64_t y_row, int64_t m, void* stream) {
  if (m <= 0) return m == 0 ? QM_OK : QM_SHAPE;
  // the strides of scales are 32 bit in CUTLASS
  if (m > INT32_MAX - 512 || (m + 3) / 4 * 4 * ((plan.problem.k + 127) / 128) > INT32_MAX) {
    return QM_SHAPE;
  }
  if (!x || !x_scales || !y) return QM_NULL;
  if (!aligned(x, 16) || !aligned(x_scales, 16) || !aligned(y, 16)) return QM_ALIGNMENT;
  auto const args = Gemm::arguments(plan.problem, plan.hardware,
                                    {x, x_scales, y, x_row, y_row, static_cast<int>(m)});
  auto params = Kernel::to_underlying_arguments(args, nullptr);
  return quantmux::launch<Kernel>(params, plan.problem.device, plan.problem.pdl != 0, stream);
}
}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
#define QM_TEXT2(x) #x
#define QM_TEXT(x) QM_TEXT2(x)
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=" QM_TEXT(CUTLASS_MAJOR) "." QM_TEXT(
      CUTLASS_MINOR) "." QM_TEXT(CUTLASS_PATCH) ";digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmProblem const* problem, void* memory) {
  if (!problem || !memory) return QM_NULL;
  if (problem->bytes != sizeof(QmProblem) || problem->abi != QM_ABI_VERSION) return QM_VERSION;
  if (!aligned(memory, 64)) return QM_ALIGNMENT;
  if (int const status = check(*problem)) return status;
  Plan plan{*problem, {}};
  if (int const status = quantmux::prepare_kernel<Kernel>(*problem, plan.hardware)) return status;
  // A trial with one row, at addresses that are only looked at: does the driver take descriptors
  // of these strides?
  auto const args = Gemm::arguments(*problem, plan.hardware,
                                    {problem->w, problem->w, const_cast<void*>(problem->w),
                                     problem->x_row, problem->y_row, 1});
  auto const params = Kernel::to_underlying_arguments(args, nullptr);
  if (!quantmux::encoded(params.mainloop.tma_load_a.get_tma_descriptor()) ||
      !quantmux::encoded(params.mainloop.tma_load_b.get_tma_descriptor())) {
    return QM_DESCRIPTOR;
  }
  *static_cast<Plan*>(memory) = plan;
  return QM_OK;
}

QM_API int qm_run(void const* memory, void const* x, void const* x_scales, void* y, int64_t m,
                  void* stream) {
  if (!memory) return QM_NULL;
  auto const& plan = *static_cast<Plan const*>(memory);
  return run(plan, x, plan.problem.x_row, x_scales, y, plan.problem.y_row, m, stream);
}

QM_API int qm_run_at(void const* memory, void const* x, int64_t x_row, void const* x_scales,
                     void* y, int64_t y_row, int64_t m, void* stream) {
  if (!memory) return QM_NULL;
  auto const& plan = *static_cast<Plan const*>(memory);
  if (int const status = check_strides(plan.problem, x_row, y_row)) return status;
  return run(plan, x, x_row, x_scales, y, y_row, m, stream);
}
