// Which block of 16 values a thread has, and where its scale goes.
//
// row_major: threads take consecutive blocks of the whole stored matrix: 32 lanes then write 512
// bytes of codes and 32 bytes of scales in one piece each. In the swizzled layouts the 32 scale
// bytes that lie side by side are those of 4 columns and 8 rows, so a warp takes these (in 128x4 the
// rows r and r + 1, and both 32, 64 and 96 further down), and the warps of a program stand side by
// side: a row of x is read 128 bytes a warp, 1 KiB a program.
#pragma once
#include <cstdint>

#include "nvfp4_math.cuh"

namespace qm_nvfp4 {

enum Layout : int { kRowMajor = 0, kSwizzled128x4 = 1, kSwizzled8x4 = 2 };

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// n / d for 0 <= n < 2^31 by a product: factor = floor(2^(31+s) / d) + 1 with 2^(s-1) < d <= 2^s.
// The error of the factor is at most d / 2^(31+s) <= 2^-31, so that of the quotient is below 1 / d.
struct Divisor {
  uint32_t factor;
  int32_t shift;
  int32_t by;
};

inline Divisor divisor(int32_t by) {
  int s = 0;
  while ((int64_t(1) << s) < by) ++s;
  return {uint32_t((uint64_t(1) << (31 + s)) / uint64_t(by) + 1), 31 + s, by};
}

QM_DEVICE int32_t quotient(int32_t n, Divisor const& d) {
  return int32_t((uint64_t(uint32_t(n)) * d.factor) >> d.shift);
}

struct Place {
  int32_t row;
  int32_t group;  // block of the row
};

// Programs take rows << quads_log fewer quads: `rows_log` and `quads_log` add up to log2(kWarps).
inline int tile_rows(int rows_log) { return 8 << rows_log; }

// First row of a program and the block of one of its threads; `pass` counts the blocks of a thread.
template <int kLayout>
QM_DEVICE Place place_of(int32_t program, int thread, int pass, int passes, Divisor const& across, int quads_log,
                     int32_t* first) {
  Place p;
  int const lane = thread & 31, warp = thread >> 5;
  if (kLayout == kRowMajor) {
    // `across` programs take as many blocks as that many rows have: below 2^31, whatever M is
    int32_t const tile = kThreads * passes, down = quotient(program, across);
    int32_t const base = down * tile, start = (program - down * across.by) * tile;
    int32_t const at = start + pass * kThreads + thread, r = quotient(at, across);
    *first = base + quotient(start, across);
    p.row = base + r;
    p.group = at - r * across.by;
  } else {
    int32_t const down = quotient(program, across), column = program - down * across.by;
    int const rows_log = 3 - quads_log, quads = 1 << quads_log;
    int const quad = (column * passes + pass) * quads + (warp & (quads - 1));
    int const i = ((warp >> quads_log) << 3) + (lane >> 2);
    p.group = quad * 4 + (lane & 3);
    if (kLayout == kSwizzled128x4) {
      int const step_log = 1 + rows_log;  // a quarter of the rows
      *first = ((down >> (5 - step_log)) << 7) + ((down & ((32 >> step_log) - 1)) << step_log);
      p.row = *first + ((i & 3) << 5) + (i >> 2);
    } else {
      *first = down << (3 + rows_log);
      p.row = *first + i;
    }
  }
  return p;
}

// The byte of a block's scale; `quads` is the row's blocks over 4, rounded up (row_major: its blocks)
template <int kLayout>
QM_DEVICE int64_t scale_byte(Place p, int32_t quads) {
  if (kLayout == kSwizzled128x4)
    return (int64_t(p.row >> 7) * quads + (p.group >> 2)) * 512 + (p.row & 31) * 16 + ((p.row >> 5) & 3) * 4 + (p.group & 3);
  if (kLayout == kSwizzled8x4) return (int64_t(p.row >> 3) * quads + (p.group >> 2)) * 32 + (p.row & 7) * 4 + (p.group & 3);
  return int64_t(p.row) * quads + p.group;
}

}  // namespace qm_nvfp4
