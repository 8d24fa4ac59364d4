// NVFP4 quantization behind the C ABI: rows of bf16, fp16 or fp32 to e2m1 codes and an e4m3 scale for
// every 16 columns, in every layout and padding. No CUTLASS. One binary for Hopper and Blackwell: the
// conversion is an instruction on 100f and 120f and five fp32 operations on 90a.
//
//   qm_plan(QmQuantizeProblem const*, plan)   what a config fixes; checks it
//   qm_search_parts(plan, m)                  numbers that `partial` must hold for m rows
//   qm_quantize(plan, x, row, column, data, scales, given, made, partial, m, stream)
//       one call. given: g, fp32 [1], one launch; null: g is computed from x, by way of `partial`, two
//       launches. Strides in elements. made: g is written there.
#include "../abi.cuh"

#include <cuda_runtime.h>
#include <type_traits>

#include "nvfp4_kernel.cuh"

using namespace qm_nvfp4;

// Mirrored by quantmux_cutlass.quantize.nvfp4_abi.Problem; a test compares the offsets.
struct QmQuantizeProblem {
  uint32_t bytes;   // sizeof(QmQuantizeProblem)
  uint32_t abi;     // QM_ABI_VERSION
  int32_t n;        // columns of x
  int32_t padded_n; // stored columns, a multiple of 16
  int32_t rows;     // stored rows are the rows rounded up to a multiple of this
  int32_t in;       // 0 bf16, 1 fp16, 2 fp32
  int32_t layout;   // 0 row_major, 1 swizzled_128x4, 2 swizzled_8x4
  int32_t device, sms, pdl;
  int32_t option[4]; // blocks of a thread for few rows, for many (0: the library's choice); two of no meaning
};

namespace {

struct Plan {
  uint32_t magic;
  int32_t n, groups, rows, in, layout, device, sms, pdl, quads, quads_log;
  Divisor groups_by;
  int32_t passes[2];
  Divisor across[2];  // for passes[0] and passes[1]
  int32_t threads_log;
  Divisor search_across;
};
constexpr uint32_t kMagic = 0x514D5134u;
static_assert(sizeof(Plan) <= 256 && std::is_trivially_copyable_v<Plan>);

// From so many blocks on a thread takes passes[1] of them
constexpr int64_t kMany = 1024 * 448;

int32_t rounded_up(int64_t value, int32_t multiple) { return int32_t((value + multiple - 1) / multiple * multiple); }

template <class F>
int with_type(int in, F const& run) {
  switch (in) {
    case 0: return run(__nv_bfloat16{});
    case 1: return run(__half{});
    default: return run(float{});
  }
}

int launched(void const* kernel, unsigned grid, unsigned threads, bool pdl, void* stream, void** arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = pdl ? 1 : 0;
  cudaError_t const error = cudaLaunchKernelExC(&config, kernel, arguments);
  return error == cudaSuccess ? QM_OK : QM_CUDA + int(error);
}

template <class T, int kLayout, bool kAligned>
void const* quantizer(int passes) {
  if (!kAligned || passes == 1) return reinterpret_cast<void const*>(&quantize_kernel<T, kLayout, kAligned, 1>);
  return reinterpret_cast<void const*>(&quantize_kernel<T, kLayout, true, 2>);
}

template <class T>
void const* quantizer_of(int layout, bool aligned, int passes) {
  switch (layout * 2 + int(aligned)) {
    case 0: return quantizer<T, kRowMajor, false>(passes);
    case 1: return quantizer<T, kRowMajor, true>(passes);
    case 2: return quantizer<T, kSwizzled128x4, false>(passes);
    case 3: return quantizer<T, kSwizzled128x4, true>(passes);
    case 4: return quantizer<T, kSwizzled8x4, false>(passes);
    default: return quantizer<T, kSwizzled8x4, true>(passes);
  }
}

int search_grid(Plan const& plan, int64_t m, int32_t* tiles) {
  int64_t const rows = int64_t(kSearchThreads >> plan.threads_log) * kSearchRows;
  int64_t const all = (m + rows - 1) / rows * plan.search_across.by;
  if (all > INT32_MAX) return -1;
  *tiles = int32_t(all);
  int64_t const most = 2 * int64_t(plan.sms) < kMostParts ? 2 * int64_t(plan.sms) : kMostParts;
  return int(all < most ? all : most);
}

// The device of the plan for as long as a call takes, where another is current
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && before_ != device) {
      error_ = cudaSetDevice(device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=;e2m1=instruction from sm_100 on;digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmQuantizeProblem const* problem, void* into) {
  if (!problem || !into) return QM_NULL;
  if (problem->bytes != sizeof(QmQuantizeProblem) || problem->abi != QM_ABI_VERSION) return QM_VERSION;
  if (reinterpret_cast<uintptr_t>(into) & 7) return QM_ALIGNMENT;
  auto const& q = *problem;
  if (q.n <= 0 || q.padded_n < q.n || q.padded_n % 16 || q.padded_n > (1 << 25) || q.rows <= 0 || q.rows > (1 << 20)) return QM_SHAPE;
  if (q.in < 0 || q.in > 2 || q.layout < 0 || q.layout > 2 || q.device < 0 || q.sms <= 0) return QM_OPTION;
  for (int passes : {q.option[0], q.option[1]})
    if (passes < 0 || passes > 2) return QM_OPTION;
  if (q.option[2] || q.option[3]) return QM_OPTION;
  Plan plan{};
  plan.magic = kMagic;
  plan.n = q.n;
  plan.groups = q.padded_n / 16;
  plan.rows = q.rows;
  plan.in = q.in;
  plan.layout = q.layout;
  plan.device = q.device;
  plan.sms = q.sms;
  plan.pdl = q.pdl != 0;
  int const quads = (plan.groups + 3) / 4;
  plan.quads = q.layout == kRowMajor ? plan.groups : quads;
  for (int i = 0; i < 2; ++i) plan.passes[i] = q.option[i] ? q.option[i] : 1 + i;
  while (plan.quads_log < 3 && (1 << plan.quads_log) < quads) ++plan.quads_log;
  for (int i = 0; i < 2; ++i) {
    int const side = plan.passes[i] << plan.quads_log;
    plan.across[i] = divisor(q.layout == kRowMajor ? plan.groups : (quads + side - 1) / side);
  }
  int const eights = (q.n + 7) / 8;
  while (plan.threads_log < 7 && (1 << plan.threads_log) < eights) ++plan.threads_log;
  plan.search_across = divisor((eights + (1 << plan.threads_log) - 1) >> plan.threads_log);
  *static_cast<Plan*>(into) = plan;
  return QM_OK;
}

QM_API int64_t qm_search_parts(void const* from, int64_t m) {
  if (!from || m < 0) return -1;
  int32_t tiles = 0;
  return search_grid(*static_cast<Plan const*>(from), m, &tiles);
}

QM_API int qm_quantize(void const* from, void const* x, int64_t row_stride, int64_t column_stride, void* data, void* scales,
                       void const* given, void* made, void* partial, int64_t m, void* stream) {
  if (!from) return QM_NULL;
  Plan const& plan = *static_cast<Plan const*>(from);
  if (plan.magic != kMagic) return QM_VERSION;
  if (m < 0 || m > INT32_MAX - (1 << 21)) return QM_SHAPE;
  if (m == 0) return QM_OK;
  if (!x || !data || !scales || !made || (!given && !partial)) return QM_NULL;
  int const size = plan.in == 2 ? 4 : 2;
  if (m == 1) row_stride = 0;  // says nothing
  auto const at = reinterpret_cast<uintptr_t>(x);
  if (at % size || reinterpret_cast<uintptr_t>(made) & 3 || reinterpret_cast<uintptr_t>(given) & 3 || reinterpret_cast<uintptr_t>(partial) & 3)
    return QM_ALIGNMENT;
  if (row_stride < 0 || column_stride < 0) return QM_STRIDE;
  bool const readable = column_stride == 1 && ((at | uintptr_t(row_stride * size)) & 15) == 0;
  bool const aligned = readable && (reinterpret_cast<uintptr_t>(data) & 7) == 0;
  OnDevice const here(plan.device);
  if (here.error() != cudaSuccess) return QM_CUDA + int(here.error());

  Arguments a{};
  a.x = x;
  a.data = static_cast<uint8_t*>(data);
  a.scales = static_cast<uint8_t*>(scales);
  a.source = given;
  a.made = static_cast<float*>(made);
  a.row_stride = row_stride;
  a.column_stride = column_stride;
  a.m = int32_t(m);
  a.padded_m = rounded_up(m, plan.rows);
  a.n = plan.n;
  a.groups = plan.groups;
  a.quads = plan.quads;
  a.quads_log = plan.quads_log;
  if (!given) {
    SearchArguments s{};
    int const grid = search_grid(plan, m, &s.tiles);
    if (grid < 0) return QM_SHAPE;
    s.x = x;
    s.partial = static_cast<uint32_t*>(partial);
    s.row_stride = row_stride;
    s.column_stride = column_stride;
    s.m = a.m;
    s.n = plan.n;
    s.threads_log = plan.threads_log;
    s.across = plan.search_across;
    void* list[] = {&s};
    int const status = with_type(plan.in, [&](auto tag) {
      using T = decltype(tag);
      auto kernel = readable ? reinterpret_cast<void const*>(&search_kernel<T, true>) : reinterpret_cast<void const*>(&search_kernel<T, false>);
      return launched(kernel, unsigned(grid), kSearchThreads, plan.pdl, stream, list);
    });
    if (status != QM_OK) return status;
    a.source = partial;
    a.parts = grid;
  }
  int const which = m * plan.groups >= kMany ? 1 : 0;
  int const passes = aligned ? plan.passes[which] : 1;
  a.across = aligned || passes == plan.passes[which] ? plan.across[which] : plan.across[0];
  int64_t programs;
  if (plan.layout == kRowMajor) {
    int64_t const tile = int64_t(kThreads) * passes;
    programs = (int64_t(a.padded_m) * plan.groups + tile - 1) / tile;
  } else {
    a.scale_rows = rounded_up(a.padded_m, plan.layout == kSwizzled128x4 ? 128 : 8);
    int const rows = tile_rows(3 - plan.quads_log);
    if (passes != plan.passes[which]) {
      int const side = passes << plan.quads_log;
      a.across = divisor((plan.quads + side - 1) / side);
    }
    programs = int64_t((a.scale_rows + rows - 1) / rows) * a.across.by;
  }
  if (programs > INT32_MAX) return QM_SHAPE;
  void* list[] = {&a};
  return with_type(plan.in, [&](auto tag) {
    return launched(quantizer_of<decltype(tag)>(plan.layout, aligned, passes), unsigned(programs), kThreads, plan.pdl, stream, list);
  });
}
