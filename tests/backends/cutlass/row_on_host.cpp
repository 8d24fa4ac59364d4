// The parts of the row-scaled FP8 library that need no GPU, for test_fp8_tiles_checks.py.
#include "linear/row_checks.cuh"

QM_API int check_problem(QmProblem const* p) { return qm::check_row_problem(*p); }

QM_API int check_strides(int n, int k, int64_t x_row, int64_t y_row) {
  return qm::check_row_strides(n, k, x_row, y_row);
}

QM_API int check_call(void const* x, void const* scales, void const* y) {
  return qm::check_row_call(x, scales, y);
}

QM_API int tile_count() { return sizeof(qm::kRowTiles) / sizeof(qm::RowTile); }

// Columns, rows and form of the tile at a place of the list.
QM_API void tile_at(int place, int* to) {
  qm::RowTile const& tile = qm::kRowTiles[place];
  to[0] = tile.bn;
  to[1] = tile.bm;
  to[2] = tile.form;
}

QM_API int find_tile(QmProblem const* p) { return qm::find_row_tile(*p); }

// Owner and place of every chunk of a tile; gives the places of a CTA.
QM_API int chunks_of(int groups, int cluster, int* to) {
  qm::Chunks const chunks{groups, cluster};
  for (int c = 0; c < chunks.count(); ++c) {
    to[2 * c] = chunks.owner(c);
    to[2 * c + 1] = chunks.place(c);
    if (chunks.at(to[2 * c], to[2 * c + 1]) != c) return -1;
  }
  return chunks.places();
}
