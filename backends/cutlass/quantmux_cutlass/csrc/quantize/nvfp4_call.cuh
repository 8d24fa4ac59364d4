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
  int32_t option[2];  // 0: the library's choice, else for every M: [0] 1 + log2 of the tiles of a program, + 8
                      // to ask for the next one early; [1] threads of a program + log2 of its lanes' quads
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
constexpr int kSearchRows = 2;  // rows of a thread in a tile: small tiles, so that all programs end together
constexpr int kSearchLog = 7;   // at most so many threads (their log2) side by side, eight columns each

// How the work is divided, by the number of blocks: few, more, many. H200, 2026-11-21, CUDA graph, cold L2,
// bf16, us; benchmarks/results/2026-11-21-h200-cutlass-nvfp4-forms.json has every form. 16 x 7168 in 128x4:
// 1.25 by 256 threads with 8 quads in a warp, 1.50 by 128 with 4; in row_major 1.07 by 128 threads with 8, 1.23 by
// 256. 2048 x 7168 in 128x4: 12.07 by two tiles a program and 2 quads in a warp, 12.37 by four tiles, 12.55 by 4
// quads. 8192 x 7168: 40.9 by four tiles, 41.9 by two; in row_major 38.7 by 8 quads and 128 threads, 42.3 by 2.
// Asking for the next tile early: 21.5 instead of 22.9 (4096 x 7168). 128 threads with 2 quads are 0.5 % faster
// than 256 where g is given and 3 % slower where it is computed, since each program reads all of the search.
constexpr int64_t kMore = 100000, kMany = 1000000;
struct Way {
  int tiles, ahead;  // tiles is a log2
  int shape[3];      // by layout; threads + log2 of lanes' quads
};
constexpr Way kWays[3] = {{0, 0, {128 + 3, 256 + 3, 256 + 3}},   // few
                          {1, 1, {128 + 3, 256 + 1, 256 + 1}},   // more
                          {2, 1, {128 + 3, 256 + 1, 256 + 1}}};  // many
constexpr uint32_t kMagic = 0x514D5134u;
constexpr int64_t kMostRows = INT32_MAX - (1 << 21);

struct Form {
  int32_t tiles;  // log2 of those of a program
  int32_t ahead;
  Geometry geometry;
  Divisor across;  // programs side by side
};

struct Plan {
  uint32_t magic;
  int32_t n, groups, rows, in, layout, device, sms, pdl, quads;
  Form forms[3];  // as kWays
  int32_t threads_log;
  Divisor search_across;
};
static_assert(sizeof(Plan) <= 512 && std::is_trivially_copyable_v<Plan>);

// One call, ready to launch
struct Call {
  Arguments quantize;
  SearchArguments search;
  int32_t programs;
  bool ahead;
  bool aligned;       // 16 bytes of x and 8 of data at once
  bool readable;      // 16 bytes of x
  int32_t search_programs;  // 0: no search
};

inline int32_t rounded_up(int64_t value, int32_t multiple) { return int32_t((value + multiple - 1) / multiple * multiple); }

// One form of the kernel; false where there is none such
inline bool make_form(QmQuantizeProblem const& q, int quads, Way const& own, Form* form) {
  int const way = q.option[0], shape = q.option[1] ? q.option[1] : own.shape[q.layout];
  if (way < 0 || way > 13 || shape < 0) return false;
  form->tiles = way ? (way - 1) & 7 : own.tiles;
  form->ahead = way ? (way - 1) >> 3 : own.ahead;
  if (form->tiles > 4) return false;
  Geometry& g = form->geometry;
  g.lane_quads = shape & 15;
  for (g.threads = 6; g.threads < 8 && (1 << g.threads) < shape - g.lane_quads; ++g.threads) {}
  if ((1 << g.threads) != shape - g.lane_quads || g.lane_quads > 3) return false;
  // 8 rows fill a sector of scales; in row_major a warp does
  int most = g.threads - 5;
  if (q.layout == kRowMajor && most < g.lane_quads) most = g.lane_quads;
  for (g.quads = 0; g.quads < most && (1 << g.quads) < quads; ++g.quads) {}
  if (g.lane_quads > g.quads) g.lane_quads = g.quads;
  form->across = divisor((quads + (1 << g.quads) - 1) >> g.quads);
  return true;
}

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
  for (int i = 0; i < 3; ++i)
    if (!make_form(q, quads, kWays[i], &plan.forms[i])) return QM_OPTION;
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
  int64_t const blocks = m * plan.groups;
  Form const& form = plan.forms[blocks < kMore ? 0 : blocks < kMany ? 1 : 2];
  call->ahead = call->aligned && form.ahead;
  Geometry& g = a.geometry = form.geometry;
  a.across = form.across;
  a.zero_rows = divisor(1);
  int const rows = 1 << rows_log(g), step = plan.layout == kSwizzled128x4 ? rows / 4 : rows;
  a.scale_rows = plan.layout == kRowMajor ? a.padded_m : rounded_up(a.padded_m, plan.layout == kSwizzled128x4 ? 128 : 8);
  int64_t down = (int64_t(a.scale_rows) + rows - 1) / rows, zeros = 0;
  g.tiles = form.tiles;
  if (plan.layout == kSwizzled128x4) {
    while ((step << g.tiles) > 32) --g.tiles;  // tiles of one program are of the same 128 rows
    if (g.tiles == 0 && a.padded_m == m && m % 128 && m % 128 <= 32 - step) {
      // of the last 128 rows only the first of each quarter's 32 have values
      a.zero_row = rounded_up(m % 128, step);
      a.zero_rows = divisor(32 - a.zero_row);
      down -= (32 - a.zero_row) / step;
      zeros = ((int64_t(32 - a.zero_row) * plan.quads - 1) >> g.threads) + 1;
    }
  }
  a.down = step;
  a.x_down = step * row_stride * size;
  a.data_down = int64_t(step) * plan.groups * 8;
  // in 128x4 within the same 128 rows
  a.scales_down = plan.layout == kRowMajor ? int64_t(step) * plan.groups
                  : plan.layout == kSwizzled8x4 ? int64_t(step / 8) * plan.quads * 32 : step * 16;
  int64_t programs = ((down + (int64_t(1) << g.tiles) - 1) >> g.tiles) * a.across.by;
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

// run(layout, aligned, ahead) with integral constants
template <class F>
int with_form(int layout, bool aligned, bool ahead, F const& run) {
  auto const with_layout = [&](auto chosen) {
    if (!aligned) return run(chosen, std::false_type{}, std::false_type{});
    if (!ahead) return run(chosen, std::true_type{}, std::false_type{});
    return run(chosen, std::true_type{}, std::true_type{});
  };
  switch (layout) {
    case kRowMajor: return with_layout(std::integral_constant<int, kRowMajor>{});
    case kSwizzled128x4: return with_layout(std::integral_constant<int, kSwizzled128x4>{});
    default: return with_layout(std::integral_constant<int, kSwizzled8x4>{});
  }
}

}  // namespace qm_nvfp4
