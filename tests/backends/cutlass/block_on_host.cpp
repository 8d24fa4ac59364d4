// The parts of the block-scaled FP8 library that need no GPU, for test_block_checks.py.
#include "linear/block_checks.cuh"

QM_API int check_problem(QmProblem const* p) { return qm::check_problem(*p); }

QM_API int check_call(QmProblem const* p, void const* x, int64_t x_row, void const* scales,
                      void const* y, int64_t y_row, int64_t m) {
  return qm::check_call(*p, x, x_row, scales, y, y_row, m);
}

// The tiles of all units of an order, as CTA `rank` of each cluster takes them: to[2 * unit].
QM_API void tiles_of(int m_units, int n_units, int width, int along_m, int sharing, int rank,
                     int* to) {
  qm::Order const order{m_units, n_units, width, along_m};
  for (int unit = 0; unit < m_units * n_units; ++unit) {
    qm::Tile const tile = qm::tile_of(order, unit, sharing, rank);
    to[2 * unit] = tile.m;
    to[2 * unit + 1] = tile.n;
  }
}
