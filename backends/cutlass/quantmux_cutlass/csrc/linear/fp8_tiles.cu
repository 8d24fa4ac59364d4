// The library of the FP8 linear with tensor or row scales for many tokens: plans and launches of
// row_tile.cuh and row_split.cuh. Any N and any row stride of y; rows of x and w in 16-byte steps.
//
// option[0]  columns of a tile
// option[1]  rows of a tile
// option[2]  RowForm (row_checks.cuh)
// option[3]  Sharing (block_order.cuh): 0 none, 1 pairs share w, 2 pairs share x
// option[4]  width of a band of tiles, at least 1
// option[5]  1: bands lie along M; 0: along N
// option[6]  CTAs that K is divided over, 2 to 8; 0 where it is not
#include "abi.cuh"

#include <algorithm>
#include <cstring>

#include "on_device.cuh"
#include "row_checks.cuh"
#include "row_split.cuh"
#include "row_tile.cuh"

namespace {

using Kernel = void (*)(qm::RowCall, CUtensorMap, CUtensorMap);

struct Entry {
  Kernel kernel;
  int bytes;  // of shared memory
};

template <int kBn, int kWaves, int kForm>
constexpr Entry entry() {
  using Shape = qm::RowShape<kBn, kWaves, kForm == qm::kPingPong, kForm == qm::kTogetherExact>;
  return {qm::row_gemm<kBn, kWaves, kForm == qm::kPingPong, kForm == qm::kTogetherExact>,
          Shape::kBytes};
}

template <int kBn, int kForm>
constexpr Entry divided() {
  return {qm::row_split_gemm<kBn, kForm == qm::kDividedExact>, qm::SplitShape<kBn>::kBytes};
}

// In the order of qm::kRowTiles.
#define QM_TILE(bn, waves, form) entry<bn, waves, qm::form>(),
#define QM_DIVIDED(bn, form) divided<bn, qm::form>(),
Entry const kEntries[] = {QM_ROW_TILES(QM_TILE, QM_DIVIDED)};
#undef QM_TILE
#undef QM_DIVIDED

struct Plan {
  // A CUtensorMap, which would ask for more alignment than a plan has; the kernel gets a copy.
  unsigned char w_map[sizeof(CUtensorMap)];
  qm::RowCall call;  // all but what a call brings
  qm::RowTile tile;
  Entry entry;
  int64_t x_row, y_row;
  int k, device, ctas, pdl;

  int cluster() const {
    if (call.splits > 0) return call.splits;
    return call.sharing == qm::kAlone ? 1 : 2;
  }
};

cudaLaunchConfig_t launch_config(Plan const& plan, int ctas, void* stream,
                                 cudaLaunchAttribute (&attributes)[2]) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(ctas, 1, 1);
  config.blockDim = dim3(qm::kRowThreads, 1, 1);
  config.dynamicSmemBytes = plan.entry.bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  if (plan.cluster() > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = plan.cluster();
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs].val.clusterDim.z = 1;
    ++config.numAttrs;
  }
  if (plan.pdl) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  return config;
}

// Shared memory of the kernel, and how many CTAs run at the same time: neighbours of a cluster lie
// in one group of multiprocessors, so some of those may have to stay idle.
int prepare(Plan& plan, int sms) {
  quantmux::OnDevice const on(plan.device);
  if (on.status() != cudaSuccess) return quantmux::cuda_status(on.status());
  auto const kernel = reinterpret_cast<void const*>(plan.entry.kernel);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           plan.entry.bytes);
  if (error != cudaSuccess) return quantmux::cuda_status(error);
  plan.ctas = sms;
  int const cluster = plan.cluster();
  // Where K is divided every cluster makes one tile: the grid does not depend on it.
  if (cluster > 1 && plan.call.splits == 0) {
    cudaLaunchAttribute attributes[2];
    auto const config = launch_config(plan, cluster, nullptr, attributes);
    int clusters = 0;
    error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    if (error != cudaSuccess) return quantmux::cuda_status(error);
    plan.ctas = cluster * std::max(std::min(clusters, sms / cluster), 1);
  }
  return QM_OK;
}

int run(Plan const& plan, void const* x, int64_t x_row, void const* x_scales, void* y,
        int64_t y_row, int64_t m, void* stream) {
  if (m < 0 || m > qm::kMostExtent) return QM_SHAPE;
  if (m == 0) return QM_OK;
  if (int const status = qm::check_row_call(x, x_scales, y)) return status;

  qm::RowCall call = plan.call;
  qm::RowTile const& tile = plan.tile;
  call.sx = static_cast<float const*>(x_scales);
  call.out.y = y;
  call.out.row = y_row;
  call.out.m = static_cast<int>(m);
  call.out.vector = qm::row_aligned(y, 16) && y_row % 8 == 0;
  bool const share_w = call.sharing == qm::kShareW, share_x = call.sharing == qm::kShareX;
  int64_t const m_tiles = (m + tile.bm - 1) / tile.bm;
  int64_t const n_tiles = (call.out.n + tile.bn - 1) / tile.bn;
  int64_t const m_units = share_w ? (m_tiles + 1) / 2 : m_tiles;
  int64_t const n_units = share_x ? (n_tiles + 1) / 2 : n_tiles;
  int64_t const units = m_units * n_units;
  // The walk beyond the last unit, and a grid of clusters, are counted in int.
  if (units > INT32_MAX / 16) return QM_SHAPE;
  call.order.m_units = static_cast<int>(m_units);
  call.order.n_units = static_cast<int>(n_units);
  call.order.width =
      std::min(call.order.width, call.order.along_m ? call.order.m_units : call.order.n_units);
  call.units = static_cast<int>(units);

  CUtensorMap x_map, w_map;
  std::memcpy(&w_map, plan.w_map, sizeof w_map);
  if (!qm::encode_fp8(&x_map, x, m, plan.k, x_row, share_x ? tile.bm / 2 : tile.bm)) {
    return QM_DESCRIPTOR;
  }
  quantmux::OnDevice const on(plan.device);
  if (on.status() != cudaSuccess) return quantmux::cuda_status(on.status());
  int64_t const all = units * plan.cluster();
  int const ctas = static_cast<int>(call.splits > 0 ? all : std::min<int64_t>(plan.ctas, all));
  cudaLaunchAttribute attributes[2];
  auto const config = launch_config(plan, ctas, stream, attributes);
  void* arguments[] = {&call, &x_map, &w_map};
  return quantmux::cuda_status(cudaLaunchKernelExC(
      &config, reinterpret_cast<void const*>(plan.entry.kernel), arguments));
}
}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=;digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmProblem const* problem, void* memory) {
  if (!problem || !memory) return QM_NULL;
  QmProblem const& p = *problem;
  if (!qm::row_aligned(memory, 64)) return QM_ALIGNMENT;
  if (int const status = qm::check_row_problem(p)) return status;
  int const at = qm::find_row_tile(p);
  Plan plan{};
  plan.tile = qm::kRowTiles[at];
  plan.entry = kEntries[at];
  plan.x_row = p.x_row;
  plan.y_row = p.y_row;
  plan.k = p.k;
  plan.device = p.device;
  plan.pdl = p.pdl != 0;
  plan.call.sw = static_cast<float const*>(p.w_scales);
  plan.call.sx_step = p.x_by_row ? 1 : 0;
  plan.call.sw_step = p.w_by_row ? 1 : 0;
  plan.call.out.bias = p.bias;
  plan.call.out.n = p.n;
  plan.call.out.half = p.out;
  plan.call.sharing = p.option[3];
  plan.call.order.width = p.option[4];
  plan.call.order.along_m = p.option[5];
  plan.call.splits = p.option[6];
  plan.call.k_blocks = (p.k + 127) / 128;
  int const box = p.option[3] == qm::kShareW ? plan.tile.bn / 2 : plan.tile.bn;
  CUtensorMap w_map;
  if (!qm::encode_fp8(&w_map, p.w, p.n, p.k, p.w_row, box)) return QM_DESCRIPTOR;
  std::memcpy(plan.w_map, &w_map, sizeof w_map);
  if (int const status = prepare(plan, p.sms)) return status;
  *static_cast<Plan*>(memory) = plan;
  return QM_OK;
}

QM_API int qm_run(void const* memory, void const* x, void const* x_scales, void* y, int64_t m,
                  void* stream) {
  if (!memory) return QM_NULL;
  auto const& plan = *static_cast<Plan const*>(memory);
  return run(plan, x, plan.x_row, x_scales, y, plan.y_row, m, stream);
}

QM_API int qm_run_at(void const* memory, void const* x, int64_t x_row, void const* x_scales,
                     void* y, int64_t y_row, int64_t m, void* stream) {
  if (!memory) return QM_NULL;
  auto const& plan = *static_cast<Plan const*>(memory);
  if (int const status = qm::check_row_strides(plan.call.out.n, plan.k, x_row, y_row)) {
    return status;
  }
  return run(plan, x, x_row, x_scales, y, y_row, m, stream);
}
