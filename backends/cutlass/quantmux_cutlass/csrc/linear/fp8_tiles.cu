// The library of the FP8 linear with tensor or row scales for many tokens (row_tile.cuh): its
// checks, plans and launches. Any N and any row stride of y; rows of x and w in 16-byte steps.
//
// option[0]  columns of a tile
// option[1]  rows of a tile
// option[2]  0 ping-pong, 1 both groups on one tile, 2 the same with exact accumulation; 3 K divided
//            over a cluster, 4 the same with exact accumulation
// option[3]  Sharing (block_order.cuh): 0 none, 1 pairs share w, 2 pairs share x
// option[4]  width of a band of tiles, at least 1
// option[5]  1: bands lie along M; 0: along N
// option[6]  with forms 3 and 4: CTAs that K is divided over, 2 to 8; else 0
#include "abi.cuh"

#include <algorithm>
#include <cstring>

#include "on_device.cuh"
#include "row_split.cuh"
#include "row_tile.cuh"

namespace {

using Kernel = void (*)(qm::RowCall, CUtensorMap, CUtensorMap);

struct Entry {
  int bn, bm, form;
  Kernel kernel;
  int bytes;
};

template <int kBn, int kWaves, int kForm>
constexpr Entry entry() {
  using Shape = qm::RowShape<kBn, kWaves, kForm == 0, kForm == 2>;
  return {kBn, Shape::kBm, kForm,
          reinterpret_cast<Kernel>(qm::row_gemm<kBn, kWaves, kForm == 0, kForm == 2>),
          Shape::kBytes};
}

template <int kBn, bool kExact>
constexpr Entry split() {
  using Shape = qm::SplitShape<kBn>;
  return {kBn, Shape::kBm, kExact ? 4 : 3,
          reinterpret_cast<Kernel>(qm::row_split_gemm<kBn, kExact>), Shape::kBytes};
}

// clang-format off
Entry const kEntries[] = {
    entry<32, 1, 0>(),  entry<48, 1, 0>(),  entry<64, 1, 0>(),  entry<80, 1, 0>(),
    entry<96, 1, 0>(),  entry<112, 1, 0>(), entry<128, 1, 0>(), entry<144, 1, 0>(),
    entry<160, 1, 0>(), entry<192, 1, 0>(), entry<224, 1, 0>(), entry<256, 1, 0>(),
    entry<64, 2, 0>(),  entry<80, 2, 0>(),  entry<96, 2, 0>(),  entry<112, 2, 0>(),
    entry<128, 2, 0>(), entry<144, 2, 0>(), entry<160, 2, 0>(), entry<176, 2, 0>(),
    entry<192, 2, 0>(),
    entry<192, 1, 1>(), entry<224, 1, 1>(), entry<256, 1, 1>(), entry<112, 2, 1>(),
    entry<128, 2, 1>(), entry<160, 2, 1>(), entry<192, 2, 1>(),
    entry<64, 1, 2>(),  entry<96, 1, 2>(),  entry<128, 1, 2>(), entry<160, 1, 2>(),
    entry<192, 1, 2>(), entry<64, 2, 2>(),  entry<96, 2, 2>(),  entry<128, 2, 2>(),
    split<48, false>(), split<64, false>(), split<80, false>(), split<96, false>(), split<112, false>(),
    split<128, false>(), split<144, false>(), split<160, false>(),
    split<64, true>(),  split<96, true>(),  split<128, true>(),
};
// clang-format on

struct Plan {
  // A CUtensorMap, which would ask for more alignment than a plan has; the kernel gets a copy.
  unsigned char w_map[sizeof(CUtensorMap)];
  qm::RowCall call;  // all but what a call brings
  Entry entry;
  int64_t x_row, y_row;
  int k, x_by_row, device, ctas, pdl;
};

bool aligned(void const* p, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

Entry const* find(QmProblem const& p) {
  for (Entry const& e : kEntries) {
    if (e.bn == p.option[0] && e.bm == p.option[1] && e.form == p.option[2]) return &e;
  }
  return nullptr;
}

int check_strides(int n, int k, int64_t x_row, int64_t y_row) {
  return x_row < k || y_row < n || x_row % 16 ? QM_STRIDE : QM_OK;
}

int check(QmProblem const& p) {
  if (!p.w || !p.w_scales) return QM_NULL;
  if (p.n <= 0 || p.k <= 0 || p.sms <= 0 || p.device < 0) return QM_SHAPE;
  // Extents beyond these would overflow a tile's coordinates.
  if (p.n > INT32_MAX - 512 || p.k > INT32_MAX - 512) return QM_SHAPE;
  if (!aligned(p.w, 16) || !aligned(p.w_scales, 4) || !aligned(p.bias, 4)) return QM_ALIGNMENT;
  if (p.w_row < p.k || p.w_row % 16) return QM_STRIDE;
  if (p.out < 0 || p.out > 1 || find(p) == nullptr) return QM_OPTION;
  if (p.option[3] < qm::kAlone || p.option[3] > qm::kShareX || p.option[4] < 1 ||
      p.option[5] < 0 || p.option[5] > 1 || (p.option[3] != qm::kAlone && p.sms < 2)) {
    return QM_OPTION;
  }
  // Every CTA of a cluster needs a K block at least.
  int const splits = p.option[6];
  bool const divided = p.option[2] >= 3;
  if (divided ? splits < 2 || splits > qm::kMostSplits || p.option[3] != qm::kAlone ||
                    (p.k + 127) / 128 < splits
              : splits != 0) {
    return QM_OPTION;
  }
  return check_strides(p.n, p.k, p.x_row, p.y_row);
}

int cluster_of(Plan const& plan) {
  if (plan.call.splits > 0) return plan.call.splits;
  return plan.call.sharing == qm::kAlone ? 1 : 2;
}

cudaLaunchConfig_t launch_config(Plan const& plan, int ctas, void* stream,
                                 cudaLaunchAttribute (&attributes)[2]) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(ctas, 1, 1);
  config.blockDim = dim3(qm::kRowThreads, 1, 1);
  config.dynamicSmemBytes = plan.entry.bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  int const cluster = cluster_of(plan);
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = cluster;
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
  auto const entry = reinterpret_cast<void const*>(plan.entry.kernel);
  cudaError_t error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           plan.entry.bytes);
  if (error != cudaSuccess) return quantmux::cuda_status(error);
  plan.ctas = sms;
  int const cluster = cluster_of(plan);
  if (cluster > 1) {
    cudaLaunchAttribute attributes[2];
    auto config = launch_config(plan, cluster, nullptr, attributes);
    int clusters = 0;
    error = cudaOccupancyMaxActiveClusters(&clusters, entry, &config);
    if (error != cudaSuccess) return quantmux::cuda_status(error);
    plan.ctas = cluster * std::max(std::min(clusters, sms / cluster), 1);
  }
  return QM_OK;
}

int run(Plan const& plan, void const* x, int64_t x_row, void const* x_scales, void* y,
        int64_t y_row, int64_t m, void* stream) {
  if (m < 0 || m > INT32_MAX - 512) return QM_SHAPE;
  if (m == 0) return QM_OK;
  if (!x || !x_scales || !y) return QM_NULL;
  if (!aligned(x, 16) || !aligned(x_scales, 4) || !aligned(y, 2)) return QM_ALIGNMENT;

  qm::RowCall call = plan.call;
  Entry const& e = plan.entry;
  call.sx = static_cast<float const*>(x_scales);
  call.out.y = y;
  call.out.row = y_row;
  call.out.m = static_cast<int>(m);
  call.out.vector = aligned(y, 16) && y_row % 8 == 0;
  bool const share_w = call.sharing == qm::kShareW, share_x = call.sharing == qm::kShareX;
  int64_t const m_tiles = (m + e.bm - 1) / e.bm, n_tiles = (call.out.n + e.bn - 1) / e.bn;
  int64_t const m_units = share_w ? (m_tiles + 1) / 2 : m_tiles;
  int64_t const n_units = share_x ? (n_tiles + 1) / 2 : n_tiles;
  int64_t const units = m_units * n_units;
  // Both groups' tiles and the walk beyond the last unit are counted in int.
  if (units > INT32_MAX / 16) return QM_SHAPE;
  call.order.m_units = static_cast<int>(m_units);
  call.order.n_units = static_cast<int>(n_units);
  call.order.width =
      std::min(call.order.width, call.order.along_m ? call.order.m_units : call.order.n_units);
  call.units = static_cast<int>(units);

  CUtensorMap x_map, w_map;
  std::memcpy(&w_map, plan.w_map, sizeof w_map);
  if (!qm::encode_fp8(&x_map, x, m, plan.k, x_row, share_x ? e.bm / 2 : e.bm)) {
    return QM_DESCRIPTOR;
  }
  quantmux::OnDevice const on(plan.device);
  if (on.status() != cudaSuccess) return quantmux::cuda_status(on.status());
  // Persistent, but for divided K: there every cluster makes one tile.
  int64_t const all = units * cluster_of(plan);
  int const ctas = static_cast<int>(call.splits > 0 ? all : std::min<int64_t>(plan.ctas, all));
  cudaLaunchAttribute attributes[2];
  auto const config = launch_config(plan, ctas, stream, attributes);
  void* arguments[] = {&call, &x_map, &w_map};
  return quantmux::cuda_status(
      cudaLaunchKernelExC(&config, reinterpret_cast<void const*>(e.kernel), arguments));
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
  if (p.bytes != sizeof(QmProblem) || p.abi != QM_ABI_VERSION) return QM_VERSION;
  if (!aligned(memory, 64)) return QM_ALIGNMENT;
  if (int const status = check(p)) return status;
  Plan plan{};
  plan.entry = *find(p);
  plan.x_row = p.x_row;
  plan.y_row = p.y_row;
  plan.k = p.k;
  plan.x_by_row = p.x_by_row;
  plan.device = p.device;
  plan.pdl = p.pdl != 0;
  plan.call.sw = static_cast<float const*>(p.w_scales);
  plan.call.sx_step = p.x_by_row ? 1 : 0;
  plan.call.sw_step = p.w_by_row ? 1 : 0;
  plan.call.out.bias = p.bias;
  plan.call.out.n = p.n;
  plan.call.out.half = p.out;
  plan.call.order.width = p.option[4];
  plan.call.order.along_m = p.option[5];
  plan.call.k_blocks = (p.k + 127) / 128;
  plan.call.sharing = p.option[3];
  plan.call.splits = p.option[6];
  int const box = p.option[3] == qm::kShareW ? plan.entry.bn / 2 : plan.entry.bn;
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
  if (int const status = check_strides(plan.call.out.n, plan.k, x_row, y_row)) return status;
  return run(plan, x, x_row, x_scales, y, y_row, m, stream);
}
