// The NVFP4 quantizer's library with the host as its device: same checks, same arithmetic, same places,
// one thread of the kernels after the other. It exports what the library exports, and counts.
#define QM_ON_HOST 1
#include "quantize/nvfp4_call.cuh"

using namespace qm_nvfp4;

namespace {
int64_t calls = 0, launches = 0;

struct Nothing {
  void operator()(uint64_t) const {}
};
struct Known {
  float g;
  float operator()() const { return g; }
};

// The largest finite magnitude, straight over x: what the search kernel must find
template <class T>
uint32_t searched(SearchArguments const& s) {
  uint32_t most = 0;
  for (int64_t row = 0; row < s.m; ++row)
    for (int64_t column = 0; column < s.n; ++column) {
      float const v = widened(static_cast<T const*>(s.x)[row * s.row_stride + column * s.column_stride]);
      uint32_t const bits = as_bits(v) & kMagnitude;
      if (bits < kInfinity && bits > most) most = bits;
    }
  return most;
}
}  // namespace

QM_API int qm_abi() { return QM_ABI_VERSION; }
QM_API char const* qm_about() { return "name=nvfp4_on_host"; }
QM_API size_t qm_plan_bytes() { return sizeof(Plan); }
QM_API int qm_plan(QmQuantizeProblem const* problem, void* into) { return make_plan(problem, into); }
QM_API int64_t qm_search_parts(void const* from) { return from ? most_parts(*static_cast<Plan const*>(from)) : -1; }
QM_API int qm_quantize(void const* from, void const* x, int64_t row_stride, int64_t column_stride, void* data, void* scales,
                       void const* given, void* made, void* partial, int64_t m, void*) {
  if (!from) return QM_NULL;
  if (m == 0) return QM_OK;
  Plan const& plan = *static_cast<Plan const*>(from);
  Call call;
  int const refused = make_call(plan, x, row_stride, column_stride, data, scales, given, made, partial, m, &call);
  if (refused != QM_OK) return refused;
  ++calls;
  launches += call.search_programs ? 2 : 1;
  return with_type(plan.in, [&](auto type) {
    using T = decltype(type);
    float g;
    if (call.search_programs) {
      for (int i = 0; i < call.search_programs; ++i) call.search.partial[i] = 0;
      call.search.partial[call.search_programs - 1] = searched<T>(call.search);
      g = global_of(call.search.partial[call.search_programs - 1]);
    } else {
      g = *static_cast<float const*>(given);
    }
    return with_form(plan.layout, call.aligned, call.ahead, [&](auto layout, auto aligned, auto ahead) {
      for (int32_t program = 0; program < call.programs; ++program)
        for (int thread = 0; thread < 1 << call.quantize.geometry.threads; ++thread)
          quantize_thread<T, decltype(layout)::value, decltype(aligned)::value, decltype(ahead)::value>(
              call.quantize, program, thread, Nothing{}, Known{g});
      return int(QM_OK);
    });
  });
}

// For tests alone
QM_API int64_t qm_calls() { return calls; }
QM_API int64_t qm_launches() { return launches; }
QM_API size_t qm_sizeof() { return sizeof(QmQuantizeProblem); }
QM_API uint32_t qm_code_of(float value) { return any_code(value); }
QM_API uint32_t qm_plain_code_of(float value) { return as_bits(e2m1_sum(value < 0 ? -value : value)) & 0xFFu; }
QM_API float qm_sixth(float a) { return corrected(a, 6.0f, kSixth); }
QM_API float qm_multiplier(uint32_t code, float inverse_global) { return plain_multiplier(scale_of_code(code), inverse_global); }
QM_API int32_t qm_quotient(int32_t n, int32_t d) { return quotient(n, divisor(d)); }
