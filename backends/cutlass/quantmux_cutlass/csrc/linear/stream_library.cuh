// The C ABI of the stream kernel (stream.cuh): which tiles exist, what a plan holds, the launch.
//
// Included by one .cu per library, which says whether scales come in blocks (QM_BLOCK 0 or 1).
//
// options: 0 tokens of a tile (8, 16, 32, 64)        1 rows of W of a tile (64, 128; see FORMS)
//          2 blocks that share a tile's K, 1 to 16   3 stages of the ring
//          4 accumulation: 0 fast, 1 exact           block scales are always exact
//          5 teams of consumers (0: 1)               6 neighbours that share x: 1 (or 0), 2, 4
#pragma once
#include <cuda_runtime.h>

#include <new>

#include "abi.cuh"
#include "stream.cuh"

namespace {

using stream::Arguments;
using Kernel = void (*)(CUtensorMap, CUtensorMap, Arguments);

struct Form {
  int mode, bm, nt, teams, threads;
  Kernel kernel;
  int (*bytes)(int splits, int stages);
  int ring_at_least;
};

template <int Mode, int BM, int NT, int Teams>
constexpr Form form() {
  using Shape = stream::Shape<Mode, BM, NT, Teams>;
  return {Mode, BM, NT, Teams, Shape::threads, stream::linear<Mode, BM, NT, Teams>,
          [](int splits, int stages) { return Shape(splits, stages).bytes; },
          Shape::ring_at_least};
}

#if QM_BLOCK
#define QM_MODES(...) form<stream::BLOCK, __VA_ARGS__>()
#else
#define QM_MODES(...) form<stream::FAST, __VA_ARGS__>(), form<stream::EXACT, __VA_ARGS__>()
#endif
constexpr Form FORMS[] = {
    QM_MODES(8, 64, 1),   QM_MODES(8, 64, 2),   QM_MODES(16, 64, 1),  QM_MODES(16, 64, 2),
    QM_MODES(32, 64, 1),  QM_MODES(32, 64, 2),  QM_MODES(64, 64, 1),  QM_MODES(64, 64, 2),
    QM_MODES(16, 128, 1), QM_MODES(32, 128, 1), QM_MODES(64, 128, 1), QM_MODES(64, 128, 2),
    QM_MODES(64, 96, 1),  QM_MODES(64, 112, 1), QM_MODES(64, 144, 1), QM_MODES(64, 192, 1),
    QM_MODES(64, 224, 1)};

constexpr int MOST_SHARED = 227 * 1024;  // of a block of sm_90
constexpr int MOST_CLUSTER = 16;         // beyond 8 as the device can place them
constexpr int MOST_STAGES = 64;
constexpr int MOST_ROWS = 1 << 30;

struct Plan {
  CUtensorMap w_map;  // first: aligned to 64 bytes
  Arguments arguments;
  Form form;
  int64_t x_row;
  int device, pdl, shared, x_columns, k;
};

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                            cuuint64_t const*, cuuint64_t const*, cuuint32_t const*,
                            cuuint32_t const*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function, looked up at run time: nothing links against the driver.
Encode encoder() {
  static Encode const found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    cudaError_t const error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    bool const ok = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  return found;
}

// A byte matrix [rows, k] whose boxes are [box_rows, 128 bytes], swizzled.
int describe(CUtensorMap* map, void const* data, int64_t rows, int k, int64_t row_bytes,
             int box_rows) {
  cuuint64_t const extents[2] = {static_cast<cuuint64_t>(k), static_cast<cuuint64_t>(rows)};
  cuuint64_t const strides[1] = {static_cast<cuuint64_t>(row_bytes)};
  cuuint32_t const box[2] = {stream::BK, static_cast<cuuint32_t>(box_rows)};
  cuuint32_t const steps[2] = {1, 1};
  Encode const encode = encoder();
  if (encode == nullptr) return QM_DESCRIPTOR;
  CUresult const result = encode(
      map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), extents, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? QM_OK : QM_DESCRIPTOR;
}

bool misaligned(void const* p, uintptr_t to) { return reinterpret_cast<uintptr_t>(p) % to != 0; }

// Makes a device current for a scope; costs one look-up where it already is.
class OnDevice {
 public:
  explicit OnDevice(int device) : before_(device), device_(device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && before_ != device_) error_ = cudaSetDevice(device_);
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  cudaError_t error() const { return error_; }

 private:
  int before_, device_;
  cudaError_t error_;
};

int failed(cudaError_t error) {
  cudaGetLastError();  // it is reported here; the next call's check shall not find it
  return QM_CUDA + static_cast<int>(error);
}

bool row_is_bad(int64_t row, int64_t extent) { return row < extent; }

int run(Plan const& plan, void const* x, int64_t x_row, void const* x_scales, void* y,
        int64_t y_row, int64_t m, void* stream) {
  if (m < 0 || m > MOST_ROWS) return QM_SHAPE;
  if (m == 0) return QM_OK;
  if (x == nullptr || x_scales == nullptr || y == nullptr) return QM_NULL;
  if (misaligned(x, 16) || misaligned(x_scales, 4) || misaligned(y, 2)) return QM_ALIGNMENT;
  Form const& form = plan.form;
  CUtensorMap x_map;
  int const share = plan.arguments.share;
  int const described = describe(&x_map, x, m, plan.k, x_row, form.bm / share);
  if (described != QM_OK) return described;

  Arguments arguments = plan.arguments;
  arguments.x_scales = static_cast<float const*>(x_scales);
  arguments.y = static_cast<uint16_t*>(y);
  arguments.y_row = y_row;
  arguments.m = static_cast<int>(m);
#if QM_BLOCK
  bool const by_token = plan.x_columns == QM_ROW_MAJOR;
  int64_t const tokens = plan.x_columns == QM_COL_MAJOR_ALIGNED4 ? (m + 3) / 4 * 4 : m;
  // the producer's rows of scales cover its padded width
  arguments.x_scales_row = by_token ? (x_row + 127) / 128 : 1;
  arguments.x_scales_column = by_token ? 1 : tokens;
#endif

  OnDevice const here(plan.device);
  if (here.error() != cudaSuccess) return failed(here.error());
  int const tiles = (arguments.n + form.nt - 1) / form.nt;
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  int const cluster = arguments.splits * share;
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(cluster);
    attributes[count].val.clusterDim.y = 1;
    attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (plan.pdl) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((tiles + share - 1) / share * cluster),
                        static_cast<unsigned>((m + form.bm - 1) / form.bm));
  config.blockDim = dim3(static_cast<unsigned>(form.threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = count;
  cudaError_t const error = cudaLaunchKernelEx(&config, form.kernel, plan.w_map, x_map, arguments);
  return error == cudaSuccess ? QM_OK : failed(error);
}

}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=;digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmProblem const* problem, void* memory) {
  if (problem == nullptr || memory == nullptr) return QM_NULL;
  QmProblem const& p = *problem;
  if (p.bytes != sizeof(QmProblem) || p.abi != QM_ABI_VERSION) return QM_VERSION;
  if (misaligned(memory, 64)) return QM_ALIGNMENT;
  if (p.w == nullptr || p.w_scales == nullptr) return QM_NULL;
  if (p.n <= 0 || p.k <= 0) return QM_SHAPE;
  if (misaligned(p.w, 16) || misaligned(p.w_scales, 4) || misaligned(p.bias, 4)) {
    return QM_ALIGNMENT;
  }
  if (row_is_bad(p.w_row, p.k) || row_is_bad(p.x_row, p.k) || row_is_bad(p.y_row, p.n)) {
    return QM_STRIDE;
  }
  if (p.w_row % 16 != 0 || p.x_row % 16 != 0) return QM_STRIDE;
  int const k_blocks = (p.k + stream::BK - 1) / stream::BK;
  if (QM_BLOCK && row_is_bad(p.w_scales_row, k_blocks)) return QM_STRIDE;
  if (p.out != 0 && p.out != 1) return QM_OPTION;
  if (p.x_columns != QM_ROW_MAJOR && p.x_columns != QM_COL_MAJOR &&
      p.x_columns != QM_COL_MAJOR_ALIGNED4) {
    return QM_OPTION;
  }

  int const splits = p.option[2], stages = p.option[3];
  int const teams = p.option[5] == 0 ? 1 : p.option[5], share = p.option[6] == 0 ? 1 : p.option[6];
  int const mode = QM_BLOCK ? static_cast<int>(stream::BLOCK) : p.option[4];
  Form const* form = nullptr;
  for (Form const& each : FORMS) {
    bool const same = each.mode == mode && each.bm == p.option[0] && each.nt == p.option[1];
    if (same && each.teams == teams) form = &each;
  }
  if (form == nullptr || splits < 1 || splits > k_blocks) return QM_OPTION;
  if (share != 1 && share != 2 && share != 4) return QM_OPTION;
  if (splits * share > MOST_CLUSTER || form->bm % (8 * share) != 0) return QM_OPTION;
  if (stages < teams || stages > MOST_STAGES) return QM_OPTION;
  if (stages < (k_blocks + splits - 1) / splits) {  // stages are filled again
    // A stage must come back to its team, which knows phases by parity only; and a team asks for
    // its next stage before it gives back the one in use, so it needs two.
    if (stages % teams != 0 || stages < 2 * teams) return QM_OPTION;
  }
  if (form->bytes(splits, stages) > MOST_SHARED) return QM_OPTION;
  if (stages * (form->bm + form->nt) * stream::BK < form->ring_at_least) return QM_OPTION;

  OnDevice const here(p.device);
  if (here.error() != cudaSuccess) return failed(here.error());
  auto const kernel = reinterpret_cast<void const*>(form->kernel);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           MOST_SHARED);
  if (error == cudaSuccess && splits * share > 8) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error != cudaSuccess) return failed(error);

  Plan& plan = *new (memory) Plan{};
  plan.arguments.w_scales = static_cast<float const*>(p.w_scales);
  plan.arguments.bias = p.bias;
  plan.arguments.w_scales_row = p.w_scales_row;
  plan.arguments.y_row = p.y_row;
  plan.arguments.n = p.n;
  plan.arguments.k_blocks = k_blocks;
  plan.arguments.w_by_row = p.w_by_row;
  plan.arguments.x_by_row = p.x_by_row;
  plan.arguments.out = p.out;
  plan.arguments.splits = splits;
  plan.arguments.share = share;
  plan.arguments.stages = stages;
  plan.form = *form;
  plan.x_row = p.x_row;
  plan.device = p.device;
  plan.pdl = p.pdl;
  plan.shared = form->bytes(splits, stages);
  plan.x_columns = p.x_columns;
  plan.k = p.k;
  return describe(&plan.w_map, p.w, p.n, p.k, p.w_row, form->nt);
}

QM_API int qm_run(void const* memory, void const* x, void const* x_scales, void* y, int64_t m,
                  void* stream) {
  if (memory == nullptr) return QM_NULL;
  Plan const& plan = *static_cast<Plan const*>(memory);
  return run(plan, x, plan.x_row, x_scales, y, plan.arguments.y_row, m, stream);
}

QM_API int qm_run_at(void const* memory, void const* x, int64_t x_row, void const* x_scales,
                     void* y, int64_t y_row, int64_t m, void* stream) {
  if (memory == nullptr) return QM_NULL;
  Plan const& plan = *static_cast<Plan const*>(memory);
  if (x_row < plan.k || x_row % 16 != 0 || y_row < plan.arguments.n) return QM_STRIDE;
  return run(plan, x, x_row, x_scales, y, y_row, m, stream);
}
