// FP8 GEMM for many tokens, tensor or row scales: the C ABI around one configuration of
// collective_fp8.cuh.
//
// Rows of x and w need 16-byte steps, extents are free: TMA fills with zeros what is beyond them.
// With TMA stores rows of y need 16-byte steps too, and up to 7 columns beyond N, as far as the
// row's next 16 bytes, may be written.
//
//   option[0]   0: CUTLASS chooses; 1: blocks go along M first; 2: along N first
//   option[1]   1, 2, 4, 8: so many tiles side by side before the order moves on, for the L2 cache
#include "abi.cuh"
#include "collective_fp8.cuh"
#include "collective_launch.cuh"

namespace {
using Gemm = quantmux::Fp8Gemm;
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

constexpr uintptr_t kAlignY = Gemm::kDirect ? 2 : 16;
constexpr int64_t kStepY = Gemm::kDirect ? 1 : Gemm::kOutputs;

int check_strides(QmProblem const& p, int64_t x_row, int64_t y_row) {
  if (x_row < p.k || y_row < p.n || x_row % Gemm::kBytes || y_row % kStepY) return QM_STRIDE;
  return QM_OK;
}

int check(QmProblem const& p) {
  if (!p.w || !p.w_scales) return QM_NULL;
  if (p.n <= 0 || p.k <= 0 || p.sms <= 0 || p.device < 0) return QM_SHAPE;
  if (!aligned(p.w, 16) || !aligned(p.w_scales, 4) || !aligned(p.bias, 4)) return QM_ALIGNMENT;
  if (p.w_row < p.k || p.w_row % Gemm::kBytes) return QM_STRIDE;
  if (p.out < 0 || p.out > 1 || p.option[0] < 0 || p.option[0] > 2) return QM_OPTION;
  int const swizzle = p.option[1];
  if (swizzle != 1 && swizzle != 2 && swizzle != 4 && swizzle != 8) return QM_OPTION;
  return check_strides(p, p.x_row, p.y_row);
}

int run(Plan const& plan, Gemm::Call const& call, int64_t m, void* stream) {
  if (m <= 0) return m == 0 ? QM_OK : QM_SHAPE;
  if (m > INT32_MAX) return QM_SHAPE;
  if (!call.x || !call.x_scales || !call.y) return QM_NULL;
  if (!aligned(call.x, 16) || !aligned(call.x_scales, 4) || !aligned(call.y, kAlignY)) {
    return QM_ALIGNMENT;
  }
  auto const args = Gemm::arguments(plan.problem, plan.hardware, call);
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
  Gemm::Call const trial{problem->w, problem->w_scales, const_cast<void*>(problem->w),
                         problem->x_row, problem->y_row, 1};
  auto const args = Gemm::arguments(*problem, plan.hardware, trial);
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
  return run(plan, {x, x_scales, y, plan.problem.x_row, plan.problem.y_row, int(m)}, m, stream);
}

QM_API int qm_run_at(void const* memory, void const* x, int64_t x_row, void const* x_scales,
                     void* y, int64_t y_row, int64_t m, void* stream) {
  if (!memory) return QM_NULL;
  auto const& plan = *static_cast<Plan const*>(memory);
  if (int const status = check_strides(plan.problem, x_row, y_row)) return status;
  return run(plan, {x, x_scales, y, x_row, y_row, int(m)}, m, stream);
}
