// The host's half of the quantizer without a launch: what a config fixes, and what one call adds.
#pragma once
#include <climits>
#include <cstdint>
#include <type_traits>

#include "abi.cuh"
#include "nvfp4_thread.cuh"

// Mirrored by quantmux_cutlass.quantize.nvfp4_abi.Problem; a test compares the offsets.
struct QmQuantizeProblem {
  uint32_t bytes;     // sizeof(QmQuantizeProblem)
  uint32_t abi;       // QM_ABI_VERSION
  int32_t n;          // columns of x
  int32_t padded_n;   // stored columns, a multiple of 16
  int32_t rows;       // stored rows are the rows rounded up to a multiple of this
  int32_t in;         // 0 bf16, 1 fp16, 2 fp32
  int32_t layout;     // 0 row_major, 1 swizzled_128x4, 2 swizzled_8x4
  int32_t device;     // CUDA ordinal
  int32_t sms;        // multiprocessors of the device
  int32_t pdl;        // 1: may start while the kernel before it ends
  int32_t option[4];  // for few rows, for many: blocks of a thread (1, 2); threads of a program and, in
                      // swizzled layouts, quads of its lowest lanes (threads + quads); 0: the library's choice
};

namespace qm_nvfp4 {

struct SearchArguments {
  void const* x;
  uint32_t* partial;
  int64_t row_stride, column_stride;
  int32_t m, n, threads_log;  // threads side by side
  int32_t tiles;
  Divisor across;
};

constexpr int kMostParts = 1024;  // programs of the search
constexpr int kPartsOfSm = 4;     // and of these, for a multiprocessor: all that fit
constexpr int kSearchThreads = 512;
constexpr int kSearchRows = 4;  // rows of a thread in a tile
constexpr int kSearchLog = 7;   // at most so many threads (their log2) side by side, eight columns each

// From so many blocks on there are many rows
constexpr int64_t kMany = 1024 * 448;
constexpr uint32_t kMagic = 0x514D5134u;
constexpr int64_t kMostRows = INT32_MAX - (1 << 21);

struct Plan {
  uint32_t magic;
  int32_t n, groups, rows, in, layout, device, sms, pdl, quads;
  struct {
    int32_t passes;
    Geometry geometry;
    Divisor across[2];  // for one block a thread and for two
  } few, many;
  int32_t threads_log;
  Divisor search_across;
};
static_assert(sizeof(Plan) <= 256 && std::is_trivially_copyable_v<Plan>);

// One call, ready to launch
struct Call {
  Arguments quantize;
  SearchArguments search;
  int32_t programs, passes;
  bool aligned;       // 16 bytes of x and 8 of data at once
  bool readable;      // 16 bytes of x
  int32_t search_programs;  // 0: no search
};

inline int32_t rounded_up(int64_t value, int32_t multiple) { return int32_t((value + multiple - 1) / multiple * multiple); }

inline int make_plan(QmQuantizeProblem const* problem, void* into) {
  if (!problem || !into) return QM_NULL;
  auto const& q = *problem;
  if (q.bytes != sizeof(QmQuantizeProblem) || q.abi != QM_ABI_VERSION) return QM_VERSION;
  if (reinterpret_cast<uintptr_t>(into) & 7) return QM_ALIGNMENT;
  if (q.n <= 0 || q.padded_n < q.n || q.padded_n % 16 || q.padded_n > (1 << 25) || q.rows <= 0 || q.rows > (1 << 20)) return QM_SHAPE;
  if (q.in < 0 || q.in > 2 || q.layout < 0 || q.layout > 2 || q.device < 0 || q.sms <= 0 || q.sms > (1 << 20)) return QM_OPTION;
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
  for (int i = 0; i < 2; ++i) {
    auto& form = i ? plan.many : plan.few;
    int const passes = q.option[i] ? q.option[i] : 1 + i, shape = q.option[2 + i] ? q.option[2 + i] : 256;
    if (passes < 1 || passes > 2 || shape < 64) return QM_OPTION;
    Geometry g{};
    g.lane_quads = shape & 15;
    for (g.threads = 6; g.threads < 8 && (1 << g.threads) < shape - g.lane_quads; ++g.threads) {}
    if ((1 << g.threads) != shape - g.lane_quads || g.lane_quads > 3) return QM_OPTION;
    while (g.quads < g.threads - 5 && (1 << g.quads) < quads) ++g.quads;
    if (g.lane_quads > g.quads) g.lane_quads = g.quads;
    form.passes = passes;
    form.geometry = g;
    for (int j = 0; j < 2; ++j) {
      int const side = (j + 1) << g.quads;
      form.across[j] = divisor(q.layout == kRowMajor ? plan.groups : (quads + side - 1) / side);
    }
  }
  int const eights = (q.n + 7) / 8;
  while (plan.threads_log < kSearchLog && (1 << plan.threads_log) < eights) ++plan.threads_log;
  plan.search_across = divisor((eights + (1 << plan.threads_log) - 1) >> plan.threads_log);
  *static_cast<Plan*>(into) = plan;
  return QM_OK;
}

// Programs of the search at most: all that run at once
inline int32_t most_parts(Plan const& plan) { return kPartsOfSm * plan.sms < kMostParts ? kPartsOfSm * plan.sms : kMostParts; }

// Programs of the search for m rows; -1 where x is too large
inline int32_t search_programs(Plan const& plan, int64_t m, int32_t* tiles) {
  int64_t const rows = int64_t(kSearchThreads >> plan.threads_log) * kSearchRows;
  int64_t const all = (m + rows - 1) / rows * plan.search_across.by;
  if (all > INT32_MAX - kMostParts) return -1;
  *tiles = int32_t(all);
  return all < most_parts(plan) ? int32_t(all) : most_parts(plan);
}

// Checks what comes with a call of at least one row, and says what to launch
inline int make_call(Plan const& plan, void const* x, int64_t row_stride, int64_t column_stride, void* data, void* scales,
                     void const* given, void* made, void* partial, int64_t m, Call* call) {
  if (plan.magic != kMagic) return QM_VERSION;
  if (m < 0 || m > kMostRows) return QM_SHAPE;
  if (!x || !data || !scales || !made || (!given && !partial)) return QM_NULL;
  int const size = plan.in == 2 ? 4 : 2;
  auto const address = [](void const* p) { return reinterpret_cast<uintptr_t>(p); };
  if (address(x) % size || (address(made) | address(given) | (given ? 0 : address(partial))) & 3) return QM_ALIGNMENT;
  if (row_stride < 0 || column_stride < 0) return QM_STRIDE;
  if (m == 1) row_stride = 0;  // the stride of a single row says nothing
  *call = Call{};
  call->readable = column_stride == 1 && ((address(x) | uintptr_t(row_stride * size)) & 15) == 0;
  call->aligned = call->readable && (address(data) & 7) == 0;
  Arguments& a = call->quantize;
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
  if (!given) {
    SearchArguments& s = call->search;
    call->search_programs = search_programs(plan, m, &s.tiles);
    if (call->search_programs < 0) return QM_SHAPE;
    s.x = x;
    s.partial = static_cast<uint32_t*>(partial);
    s.row_stride = row_stride;
    s.column_stride = column_stride;
    s.m = a.m;
    s.n = plan.n;
    s.threads_log = plan.threads_log;
    s.across = plan.search_across;
    a.source = partial;
    a.parts = call->search_programs;
  }
  auto const& form = m * plan.groups >= kMany ? plan.many : plan.few;
  call->passes = call->aligned ? form.passes : 1;
  a.geometry = form.geometry;
  a.across = form.across[call->passes - 1];
  a.zero_rows = divisor(1);
  int64_t programs, zeros = 0;
  if (plan.layout == kRowMajor) {
    int64_t const tile = int64_t(call->passes) << a.geometry.threads;
    programs = (int64_t(a.padded_m) * plan.groups + tile - 1) / tile;
  } else {
    a.scale_rows = rounded_up(a.padded_m, plan.layout == kSwizzled128x4 ? 128 : 8);
    int const rows = 1 << rows_log(a.geometry);
    int64_t down = (int64_t(a.scale_rows) + rows - 1) / rows;
    if (plan.layout == kSwizzled128x4 && a.padded_m == m && m % 128 && m % 128 <= 32 - rows / 4) {
      // of the last 128 rows only the first of each quarter's 32 have values
      int32_t const step = rows / 4;
      a.zero_row = rounded_up(m % 128, step);
      a.zero_rows = divisor(32 - a.zero_row);
      down -= (32 - a.zero_row) / step;
      zeros = ((int64_t(32 - a.zero_row) * plan.quads - 1) >> a.geometry.threads) + 1;
    }
    programs = down * a.across.by;
  }
  if (programs + zeros > INT32_MAX) return QM_SHAPE;
  a.programs = int32_t(programs);
  programs += zeros;
  call->programs = int32_t(programs);
  return QM_OK;
}

// run(T{}) for the element type of x
template <class F>
int with_type(int in, F const& run) {
  switch (in) {
    case 0: return run(__nv_bfloat16{});
    case 1: return run(__half{});
    default: return run(float{});
  }
}

// run(layout, aligned, passes) with integral constants
template <class F>
int with_form(int layout, bool aligned, int passes, F const& run) {
  auto const with_layout = [&](auto chosen) {
    if (!aligned) return run(chosen, std::false_type{}, std::integral_constant<int, 1>{});
    if (passes == 1) return run(chosen, std::true_type{}, std::integral_constant<int, 1>{});
    return run(chosen, std::true_type{}, std::integral_constant<int, 2>{});
  };
  switch (layout) {
    case kRowMajor: return with_layout(std::integral_constant<int, kRowMajor>{});
    case kSwizzled128x4: return with_layout(std::integral_constant<int, kSwizzled128x4>{});
    default: return with_layout(std::integral_constant<int, kSwizzled8x4>{});
  }
}

}  // namespace qm_nvfp4
