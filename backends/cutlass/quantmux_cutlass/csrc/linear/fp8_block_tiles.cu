// The library of block_tile.cuh: its plans and launches. Checks, tiles and options stand in
// block_checks.cuh.
#include "abi.cuh"

#include "block_checks.cuh"
#include "block_tile.cuh"

namespace {

using Kernel = void (*)(qm::BlockCall, CUtensorMap, CUtensorMap);

struct Entry {
  int bn, rows, deep;
  Kernel kernel;
  int bm, bytes;
};

template <int kBn, int kRows, int kDeep>
constexpr Entry entry() {
  constexpr int kWaves = kRows == 2 ? 2 : 1;
  using Shape = qm::BlockShape<kBn, kWaves, kRows == 0>;
  return {kBn,
          kRows,
          kDeep,
          reinterpret_cast<Kernel>(qm::block_gemm<kBn, kWaves, kRows == 0, kDeep != 0>),
          Shape::kBm,
          Shape::kBytes};
}

#define QM_ENTRY(C, R, D) entry<C, R, D>(),
Entry const kEntries[] = {QM_BLOCK_TILES(QM_ENTRY)};
#undef QM_ENTRY

struct alignas(64) Plan {
  CUtensorMap w_map;
  qm::BlockCall call;  // all but what a call brings
  Entry entry;
  QmProblem problem;
};

Entry const* find(QmProblem const& p) {
  for (Entry const& e : kEntries) {
    if (e.bn == p.option[0] && e.rows == p.option[1] && e.deep == p.option[6]) return &e;
  }
  return nullptr;
}

// Makes `device` current for its lifetime; asks before it sets.
struct OnDevice {
  int before = -1;
  cudaError_t error = cudaSuccess;
  explicit OnDevice(int device) {
    int now = 0;
    error = cudaGetDevice(&now);
    if (error == cudaSuccess && now != device) {
      before = now;
      error = cudaSetDevice(device);
    }
  }
  ~OnDevice() {
    if (before >= 0) cudaSetDevice(before);
  }
};

int run(Plan const& plan, void const* x, int64_t x_row, void const* x_scales, void* y,
        int64_t y_row, int64_t m, void* stream) {
  QmProblem const& p = plan.problem;
  int const status = qm::check_call(p, x, x_row, x_scales, y, y_row, m);
  if (status != QM_OK || m == 0) return status;

  qm::BlockCall call = plan.call;
  int const rows4 = static_cast<int>((m + 3) / 4 * 4);
  call.sx = static_cast<float const*>(x_scales);
  if (p.x_columns == QM_ROW_MAJOR) {
    call.sx_row = (x_row + 127) / 128;  // the row of this call, not the plan's
    call.sx_block = 1;
  } else {
    call.sx_row = 1;
    call.sx_block = p.x_columns == QM_COL_MAJOR_ALIGNED4 ? rows4 : m;
    call.sx_bulk = call.sx_block == rows4 && qm::aligned(x_scales, 16);
    call.sx_rows = rows4;
  }
  call.out.y = y;
  call.out.row = y_row;
  call.out.m = static_cast<int>(m);
  call.out.vector = qm::aligned(y, 16) && y_row % 8 == 0;

  Entry const& e = plan.entry;
  bool const share_w = call.sharing == qm::kShareW, share_x = call.sharing == qm::kShareX;
  int64_t const m_tiles = (m + e.bm - 1) / e.bm, n_tiles = (call.out.n + e.bn - 1) / e.bn;
  int64_t const m_units = share_w ? (m_tiles + 1) / 2 : m_tiles;
  int64_t const n_units = share_x ? (n_tiles + 1) / 2 : n_tiles;
  if (m_units * n_units > INT32_MAX / 16) return QM_SHAPE;
  call.order.m_units = static_cast<int>(m_units);
  call.order.n_units = static_cast<int>(n_units);
  int const across = call.order.along_m ? call.order.m_units : call.order.n_units;
  if (call.order.width > across) call.order.width = across;
  call.units = static_cast<int>(m_units * n_units);

  OnDevice const on(p.device);
  if (on.error != cudaSuccess) return QM_CUDA + on.error;
  CUtensorMap x_map;
  if (!qm::encode_fp8(&x_map, x, m, p.k, x_row, share_x ? e.bm / 2 : e.bm)) {
    return QM_DESCRIPTOR;
  }
  // Parts of K are exchanged in the memory of the ring: such a CTA computes one tile only.
  bool const once = call.sharing == qm::kSplitK || e.rows == 0;
  int const resident = p.sms / call.cluster > 0 ? p.sms / call.cluster : 1;
  int const clusters = once || call.units < resident ? call.units : resident;

  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(clusters * call.cluster);
  config.blockDim = dim3(qm::kThreads);
  config.dynamicSmemBytes = e.bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute[2];
  attribute[0].id = cudaLaunchAttributeClusterDimension;
  attribute[0].val.clusterDim = {static_cast<unsigned>(call.cluster), 1, 1};
  attribute[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[1].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attribute;
  config.numAttrs = p.pdl ? 2 : 1;
  void* arguments[] = {&call, &x_map, const_cast<CUtensorMap*>(&plan.w_map)};
  cudaError_t const error =
      cudaLaunchKernelExC(&config, reinterpret_cast<void const*>(e.kernel), arguments);
  if (error == cudaSuccess) return QM_OK;
  cudaGetLastError();  // reported by us: nobody else shall meet it
  return QM_CUDA + error;
}

}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=;digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmProblem const* problem, void* memory) {
  if (problem == nullptr || memory == nullptr) return QM_NULL;
  if (!qm::aligned(memory, 64)) return QM_ALIGNMENT;
  QmProblem const& p = *problem;
  int const status = qm::check_problem(p);
  if (status != QM_OK) return status;

  Entry const& e = *find(p);
  Plan& plan = *static_cast<Plan*>(memory);
  plan = Plan{};
  plan.entry = e;
  plan.problem = p;
  qm::BlockCall& call = plan.call;
  call.sw = static_cast<float const*>(p.w_scales);
  call.sw_row = p.w_scales_row;
  call.sw_rows = (p.n + 127) / 128;
  call.out.bias = p.bias;
  call.out.n = p.n;
  call.out.half = p.out;
  call.out.row = p.y_row;
  call.order.width = p.option[4];
  call.order.along_m = p.option[5];
  call.k_blocks = (p.k + 127) / 128;
  call.sharing = p.option[2];
  call.cluster = p.option[3];

  OnDevice const on(p.device);
  if (on.error != cudaSuccess) return QM_CUDA + on.error;
  cudaError_t const error =
      cudaFuncSetAttribute(reinterpret_cast<void const*>(e.kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, e.bytes);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return QM_CUDA + error;
  }
  int const box = call.sharing == qm::kShareW ? e.bn / 2 : e.bn;
  return qm::encode_fp8(&plan.w_map, p.w, p.n, p.k, p.w_row, box) ? QM_OK : QM_DESCRIPTOR;
}

QM_API int qm_run(void const* plan, void const* x, void const* x_scales, void* y, int64_t m,
                  void* stream) {
  if (plan == nullptr) return QM_NULL;
  Plan const& p = *static_cast<Plan const*>(plan);
  return run(p, x, p.problem.x_row, x_scales, y, p.problem.y_row, m, stream);
}

QM_API int qm_run_at(void const* plan, void const* x, int64_t x_row, void const* x_scales, void* y,
                     int64_t y_row, int64_t m, void* stream) {
  if (plan == nullptr) return QM_NULL;
  return run(*static_cast<Plan const*>(plan), x, x_row, x_scales, y, y_row, m, stream);
}
