// csrc/linear/nvfp4_checks.cuh behind two C functions, for test_nvfp4_gemm_checks.py.
#include "linear/nvfp4_checks.cuh"

QM_API int check_problem(QmProblem const* problem) { return quantmux::nvfp4::check_problem(*problem); }

QM_API int check_call(QmProblem const* problem, void const* x, int64_t x_row, void const* x_scales,
                      void const* x_global, void const* y, int64_t y_row, int64_t m) {
  return quantmux::nvfp4::check_call(*problem, x, x_row, x_scales, x_global, y, y_row, m);
}
