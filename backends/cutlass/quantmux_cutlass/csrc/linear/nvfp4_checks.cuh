// What an NVFP4 linear must be given, checked before CUTLASS or the driver sees any of it:
// CUTLASS's own can_implement refuses legal N and looks at no stride, and a descriptor that the
// driver refuses is only printed. Plain C++ without CUDA: a test compiles it and tries it all.
#pragma once
#include <climits>
#include <cstdint>

#include "abi.cuh"

namespace quantmux {
namespace nvfp4 {

constexpr int kRowCodes = 32;   // codes of e2m1 in 16 bytes
constexpr int kGroup = 16;      // values with one scale
constexpr int kOutRow = 8;      // elements of y in 16 bytes
constexpr int kTileRows = 128;  // rows of a tile of scales; it has 4 columns

inline bool aligned(void const* p, uintptr_t to) {
  return reinterpret_cast<uintptr_t>(p) % to == 0;
}

inline int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Columns of a padded scale buffer: whole tiles, over the width of the rows of their codes.
inline int64_t scale_columns(int64_t row) { return up(row / kGroup, 4); }

// Rows must be long enough, and begin where the TMA unit can.
inline int check_row(int64_t row, int64_t least, int64_t multiple) {
  return row < least || row % multiple != 0 ? QM_STRIDE : QM_OK;
}

// CUTLASS counts the scales of an operand in 32 bits.
inline int check_scales(int64_t rows, int64_t row) {
  return scale_columns(row) > INT_MAX / up(rows, kTileRows) ? QM_SHAPE : QM_OK;
}

inline int check_problem(QmProblem const& p) {
  if (p.bytes != sizeof(QmProblem) || p.abi != QM_ABI_VERSION) return QM_VERSION;
  if (!p.w || !p.w_scales || !p.alpha) return QM_NULL;
  if (!aligned(p.w, 16) || !aligned(p.w_scales, 16)) return QM_ALIGNMENT;
  if (!aligned(p.alpha, sizeof(float)) || !aligned(p.bias, sizeof(float))) return QM_ALIGNMENT;
  if (p.n <= 0 || p.n > INT_MAX - kTileRows) return QM_SHAPE;
  if (p.k <= 0 || p.k > INT_MAX - kRowCodes) return QM_SHAPE;
  if (p.out < 0 || p.out > 1 || p.pdl < 0 || p.pdl > 1) return QM_OPTION;
  if (p.device < 0 || p.sms <= 0) return QM_OPTION;
  for (int32_t option : p.option) {
    if (option != 0) return QM_OPTION;
  }
  if (int bad = check_row(p.w_row, p.k, kRowCodes)) return bad;
  if (int bad = check_row(p.x_row, p.k, kRowCodes)) return bad;
  if (int bad = check_row(p.y_row, p.n, kOutRow)) return bad;
  // said by the caller, not assumed of the buffer: a row of its scales is whole tiles
  if (p.w_scales_row != scale_columns(p.w_row)) return QM_STRIDE;
  return check_scales(p.n, p.w_row);
}

// m = 0 is the caller's to return from before: nothing is read then, and nothing need be given.
inline int check_call(QmProblem const& p, void const* x, int64_t x_row, void const* x_scales,
                      void const* x_global, void const* y, int64_t y_row, int64_t m) {
  if (m < 0 || m > INT_MAX - kTileRows) return QM_SHAPE;
  if (!x || !x_scales || !x_global || !y) return QM_NULL;
  if (!aligned(x, 16) || !aligned(x_scales, 16) || !aligned(y, 16)) return QM_ALIGNMENT;
  if (!aligned(x_global, sizeof(float))) return QM_ALIGNMENT;
  if (int bad = check_row(x_row, p.k, kRowCodes)) return bad;
  if (int bad = check_row(y_row, p.n, kOutRow)) return bad;
  return check_scales(m, x_row);
}

}  // namespace nvfp4
}  // namespace quantmux
