// A compiled library whose device is the host: the same C ABI, and a GEMM in plain loops.
//
// A test double that computes: tests call through it whatever a GPU library would be called through,
// and it is as strict as they are meant to be. It reads nothing beyond what it was promised (K, not
// x_row), writes what a TMA store writes (the gap of every row up to the next 8 columns, with NaN,
// when option[0] is 1), and counts its calls. option[5] is a status for qm_plan to give, option[6]
// one for qm_run.
//
// QM_KIND: 0 one scale a row or in all, 1 blocks of 1x128 by 128x128, 2 NVFP4.
#include "abi.cuh"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#ifndef QM_KIND
#define QM_KIND 0
#endif

namespace {

struct Plan {
  QmProblem problem;
  uint64_t mark;  // a plan that was moved, or never made, is found out
};

constexpr uint64_t kMark = 0x716d706c616e2121;

std::atomic<int64_t> calls{0};
std::atomic<int64_t> plans{0};
void* last_stream = nullptr;

bool off(void const* p, uintptr_t multiple) { return reinterpret_cast<uintptr_t>(p) % multiple != 0; }

int64_t up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

float e4m3_of(uint8_t code) {
  int const exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  float const size = exponent ? std::ldexp(1.0f + mantissa / 8.0f, exponent - 7)
                              : std::ldexp(mantissa / 8.0f, -6);
  return code & 128 ? -size : size;
}

struct Table {
  float of[256];
  Table() {
    for (int code = 0; code < 256; ++code) of[code] = e4m3_of(static_cast<uint8_t>(code));
  }
};

Table const table;

float e4m3(uint8_t code) { return table.of[code]; }

[[maybe_unused]] float e2m1(int code) {
  static float const sizes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  return code & 8 ? -sizes[code & 7] : sizes[code & 7];
}

[[maybe_unused]] int64_t swizzled(int64_t row, int64_t column, int64_t columns) {
  int64_t const tiles = up(columns, 4) / 4;
  return (row / 128 * tiles + column / 4) * 512 + row % 32 * 16 + row / 32 % 4 * 4 + column % 4;
}

// fp32 to the 16 bits of the output's format, to nearest even
uint16_t rounded(float value, int format) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (format == 0) {
    if (value != value) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  _Float16 const half = static_cast<_Float16>(value);
  uint16_t out;
  std::memcpy(&out, &half, 2);
  return out;
}

// the dequantized product of row m of x and row n of w, in fp64
double product(QmProblem const& p, uint8_t const* x, int64_t x_row, void const* x_scales,
               int64_t rows, int64_t m, int64_t n) {
  auto const* w = static_cast<uint8_t const*>(p.w);
  double sum = 0.0;
#if QM_KIND == 2
  auto const* xs = static_cast<uint8_t const*>(x_scales);
  auto const* ws = static_cast<uint8_t const*>(p.w_scales);
  (void)rows;
  for (int64_t k = 0; k < p.k; ++k) {
    int const a = x[m * x_row / 2 + k / 2] >> (k % 2 * 4) & 15;
    int const b = w[n * p.w_row / 2 + k / 2] >> (k % 2 * 4) & 15;
    float const sa = e4m3(xs[swizzled(m, k / 16, x_row / 16)]);
    float const sb = e4m3(ws[swizzled(n, k / 16, p.w_row / 16)]);
    sum += static_cast<double>(e2m1(a)) * e2m1(b) * sa * sb;
  }
#elif QM_KIND == 1
  auto const* xs = static_cast<float const*>(x_scales);
  auto const* ws = static_cast<float const*>(p.w_scales);
  int64_t const blocks = up(x_row, 128) / 128;
  for (int64_t k = 0; k < p.k; ++k) {
    int64_t const block = k / 128;
    int64_t at = m * blocks + block;
    if (p.x_columns == QM_COL_MAJOR) at = block * rows + m;
    if (p.x_columns == QM_COL_MAJOR_ALIGNED4) at = block * up(rows, 4) + m;
    double const scale = static_cast<double>(xs[at]) * ws[n / 128 * p.w_scales_row + block];
    sum += static_cast<double>(e4m3(x[m * x_row + k])) * e4m3(w[n * p.w_row + k]) * scale;
  }
#else
  auto const* xs = static_cast<float const*>(x_scales);
  auto const* ws = static_cast<float const*>(p.w_scales);
  (void)rows;
  for (int64_t k = 0; k < p.k; ++k) {
    sum += static_cast<double>(e4m3(x[m * x_row + k])) * e4m3(w[n * p.w_row + k]);
  }
  sum *= static_cast<double>(xs[p.x_by_row ? m : 0]) * ws[p.w_by_row ? n : 0];
#endif
  return sum;
}

int run(void const* plan, void const* x, int64_t x_row, void const* x_scales, float const* x_global,
        void* y, int64_t y_row, int64_t m, void* stream) {
  if (!plan) return QM_NULL;
  auto const& made = *static_cast<Plan const*>(plan);
  if (made.mark != kMark) return QM_VERSION;
  QmProblem const& p = made.problem;
  if (m < 0 || m > std::numeric_limits<int32_t>::max()) return QM_SHAPE;
  if (m == 0) return QM_OK;
  if (!x || !x_scales || !y) return QM_NULL;
  if (QM_KIND == 2 && !x_global) return QM_NULL;
  int64_t const width = QM_KIND == 2 ? 32 : 16;
  if (x_row < p.k || x_row % width) return QM_STRIDE;
  bool const by_tma = p.option[0] == 1;
  if (y_row < (by_tma ? up(p.n, 8) : p.n) || (by_tma && y_row % 8)) return QM_STRIDE;
  if (off(x, 16) || off(x_scales, QM_KIND == 2 ? 16 : 4) || off(y, by_tma ? 16 : 2)) {
    return QM_ALIGNMENT;
  }
  if (p.option[6]) return p.option[6];
  ++calls;
  last_stream = stream;
  double const alpha = QM_KIND == 2 ? static_cast<double>(*x_global * *p.alpha) : 1.0;
  auto* out = static_cast<uint16_t*>(y);
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t n = 0; n < p.n; ++n) {
      double const sum = product(p, static_cast<uint8_t const*>(x), x_row, x_scales, m, row, n);
      double const whole = alpha * sum + (p.bias ? p.bias[n] : 0.0f);
      out[row * y_row + n] = rounded(static_cast<float>(whole), p.out);
    }
    for (int64_t n = p.n; by_tma && n < up(p.n, 8); ++n) out[row * y_row + n] = 0x7fff;
  }
  return QM_OK;
}

}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }

QM_API char const* qm_about() {
  return "name=" QM_NAME ";targets=" QM_TARGETS ";cutlass=;digest=" QM_DIGEST;
}

QM_API size_t qm_plan_bytes() { return sizeof(Plan); }

QM_API int qm_plan(QmProblem const* problem, void* plan) {
  if (!problem || !plan) return QM_NULL;
  if (problem->bytes != sizeof(QmProblem) || problem->abi != QM_ABI_VERSION) return QM_VERSION;
  QmProblem const& p = *problem;
  if (!p.w || !p.w_scales || (QM_KIND == 2 && !p.alpha)) return QM_NULL;
  if (p.n <= 0 || p.k <= 0) return QM_SHAPE;
  int64_t const width = QM_KIND == 2 ? 32 : 16;
  if (p.w_row < p.k || p.w_row % width || p.x_row < p.k || p.x_row % width) return QM_STRIDE;
  if (QM_KIND == 1 && p.w_scales_row < up(p.k, 128) / 128) return QM_STRIDE;
  if (p.y_row < (p.option[0] == 1 ? up(p.n, 8) : p.n)) return QM_STRIDE;
  if (p.option[0] == 1 && p.y_row % 8) return QM_STRIDE;
  if (off(p.w, 16) || off(p.w_scales, 4) || off(p.bias, 4) || off(plan, 64)) return QM_ALIGNMENT;
  if (p.option[0] < 0 || p.option[0] > 1 || p.out < 0 || p.out > 1) return QM_OPTION;
  bool const is_columns = p.x_columns == QM_ROW_MAJOR || p.x_columns == QM_COL_MAJOR ||
                          p.x_columns == QM_COL_MAJOR_ALIGNED4;
  if (!is_columns || p.sms < 1 || p.pdl < 0 || p.pdl > 1) return QM_OPTION;
  if (p.w_by_row < 0 || p.w_by_row > 1 || p.x_by_row < 0 || p.x_by_row > 1) return QM_OPTION;
  if (p.option[5]) return p.option[5];
  ++plans;
  new (plan) Plan{p, kMark};
  return QM_OK;
}

#if QM_KIND == 2
QM_API int qm_run(void const* plan, void const* x, void const* x_scales, void const* x_global,
                  void* y, int64_t m, void* stream) {
  if (!plan) return QM_NULL;
  QmProblem const& p = static_cast<Plan const*>(plan)->problem;
  return run(plan, x, p.x_row, x_scales, static_cast<float const*>(x_global), y, p.y_row, m, stream);
}
QM_API int qm_run_at(void const* plan, void const* x, int64_t x_row, void const* x_scales,
                     void const* x_global, void* y, int64_t y_row, int64_t m, void* stream) {
  return run(plan, x, x_row, x_scales, static_cast<float const*>(x_global), y, y_row, m, stream);
}
#else
QM_API int qm_run(void const* plan, void const* x, void const* x_scales, void* y, int64_t m,
                  void* stream) {
  if (!plan) return QM_NULL;
  QmProblem const& p = static_cast<Plan const*>(plan)->problem;
  return run(plan, x, p.x_row, x_scales, nullptr, y, p.y_row, m, stream);
}
QM_API int qm_run_at(void const* plan, void const* x, int64_t x_row, void const* x_scales, void* y,
                     int64_t y_row, int64_t m, void* stream) {
  return run(plan, x, x_row, x_scales, nullptr, y, y_row, m, stream);
}
#endif

// for tests
QM_API int64_t qm_calls() { return calls; }
QM_API int64_t qm_plans() { return plans; }
QM_API void* qm_last_stream() { return last_stream; }
QM_API size_t qm_sizeof() { return sizeof(QmProblem); }
QM_API size_t qm_offset(int field) {
  static size_t const offsets[] = {
      offsetof(QmProblem, bytes),     offsetof(QmProblem, abi),          offsetof(QmProblem, w),
      offsetof(QmProblem, w_scales),  offsetof(QmProblem, bias),         offsetof(QmProblem, alpha),
      offsetof(QmProblem, w_row),     offsetof(QmProblem, w_scales_row), offsetof(QmProblem, x_row),
      offsetof(QmProblem, y_row),     offsetof(QmProblem, n),            offsetof(QmProblem, k),
      offsetof(QmProblem, w_by_row),  offsetof(QmProblem, x_by_row),
      offsetof(QmProblem, x_columns), offsetof(QmProblem, out),          offsetof(QmProblem, device),
      offsetof(QmProblem, sms),       offsetof(QmProblem, pdl),          offsetof(QmProblem, option),
  };
  int const count = sizeof(offsets) / sizeof(offsets[0]);
  return field < 0 || field >= count ? static_cast<size_t>(-1) : offsets[field];
}
