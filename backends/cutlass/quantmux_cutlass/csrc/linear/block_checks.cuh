// What the library of fp8_block_tiles.cu has, and what it refuses before it asks the driver. Plain
// C++: a test compiles it for the host.
//
// option[0]  columns of a tile
// option[1]  rows of a tile: 0 64 (two groups share K), 1 128, 2 256
// option[2]  Sharing (block_order.cuh): 0 none, 1 pairs share w, 2 pairs share x, 3 K is split
// option[3]  CTAs of a cluster: 1 without sharing, 2 for pairs, 2 to 8 for split K
// option[4]  width of a band of tiles, at least 1
// option[5]  1: bands lie along M; 0: along N
// option[6]  1: a second set of accumulators (kDeep)
#pragma once
#include "abi.cuh"

#include "block_order.cuh"

// Columns, rows, deep of every tile.
#define QM_BLOCK_TILES(X)                                                                   \
  X(16, 0, 0) X(32, 0, 0) X(48, 0, 0) X(64, 0, 0) X(96, 0, 0) X(128, 0, 0)                  \
  X(16, 1, 0) X(32, 1, 0) X(48, 1, 0) X(64, 1, 0) X(80, 1, 0) X(96, 1, 0) X(112, 1, 0)      \
  X(128, 1, 0) X(144, 1, 0) X(160, 1, 0)                                                    \
  X(64, 1, 1) X(96, 1, 1) X(112, 1, 1) X(128, 1, 1)                                         \
  X(64, 2, 0) X(96, 2, 0) X(112, 2, 0) X(128, 2, 0)

namespace qm {

inline bool aligned(void const* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

inline bool has_tile(int columns, int rows, int deep) {
#define QM_IS(C, R, D) \
  if (columns == C && rows == R && deep == D) return true;
  QM_BLOCK_TILES(QM_IS)
#undef QM_IS
  return false;
}

inline int check_options(QmProblem const& p) {
  if (!has_tile(p.option[0], p.option[1], p.option[6])) return QM_OPTION;
  int const sharing = p.option[2], cluster = p.option[3];
  bool const fits = sharing == kAlone                           ? cluster == 1
                    : sharing == kShareW || sharing == kShareX ? cluster == 2
                    : sharing == kSplitK                        ? cluster >= 2 && cluster <= 8
                                                                : false;
  if (!fits || p.option[4] < 1 || (p.option[5] != 0 && p.option[5] != 1)) return QM_OPTION;
  // Every CTA of a cluster that splits K needs at least one block of it.
  if (sharing == kSplitK && (int64_t(p.k) + 127) / 128 < cluster) return QM_OPTION;
  return QM_OK;
}

inline int check_problem(QmProblem const& p) {
  if (p.bytes != sizeof(QmProblem) || p.abi != QM_ABI_VERSION) return QM_VERSION;
  if (p.w == nullptr || p.w_scales == nullptr) return QM_NULL;
  if (!aligned(p.w, 16) || !aligned(p.w_scales, 4) || !aligned(p.bias, 4)) return QM_ALIGNMENT;
  if (p.n <= 0 || p.k <= 0 || p.n > INT32_MAX - 512 || p.k > INT32_MAX - 512) return QM_SHAPE;
  if (p.w_row < p.k || p.w_row % 16 || p.x_row < p.k || p.x_row % 16 || p.y_row < p.n ||
      p.w_scales_row < (p.k + 127) / 128) {
    return QM_STRIDE;
  }
  if (p.out != 0 && p.out != 1) return QM_OPTION;
  if (p.x_columns != QM_ROW_MAJOR && p.x_columns != QM_COL_MAJOR &&
      p.x_columns != QM_COL_MAJOR_ALIGNED4) {
    return QM_OPTION;
  }
  if (p.sms <= 0 || p.device < 0) return QM_OPTION;
  return check_options(p);
}

inline int check_call(QmProblem const& p, void const* x, int64_t x_row, void const* x_scales,
                      void const* y, int64_t y_row, int64_t m) {
  if (m < 0 || m > INT32_MAX - 512) return QM_SHAPE;
  if (m == 0) return QM_OK;
  if (x == nullptr || x_scales == nullptr || y == nullptr) return QM_NULL;
  if (!aligned(x, 16) || !aligned(x_scales, 4) || !aligned(y, 2)) return QM_ALIGNMENT;
  if (x_row < p.k || x_row % 16 || y_row < p.n) return QM_STRIDE;
  return QM_OK;
}

}  // namespace qm
