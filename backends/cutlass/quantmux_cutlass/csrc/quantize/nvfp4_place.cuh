// Which block of 16 values a thread has, and where its scale goes.
//
// row_major: threads take consecutive blocks of the whole stored matrix: 32 lanes then write 256
// bytes of codes and 32 bytes of scales in one piece each.
//
// In the swizzled layouts the 32 bytes of a sector of scales are those of 4 columns (a quad) and 8
// rows: in 8x4 of 8 rows in sequence, in 128x4 of the rows r and r + 1 and both 32, 64 and 96 further
// down. A program takes such 8 rows (or a power of two times as many, where rows are short) and some
// quads side by side, so that sectors are filled by one program. From its lowest bits up, a thread's
// index counts: 4 columns of a quad, `lane_quads` quads, 8 rows, the other quads, further rows. With
// 8 quads first a warp reads 1 KiB of one row; with 1 quad first it fills a sector by itself.
#pragma once
#include <cstdint>

#include "nvfp4_math.cuh"

namespace qm_nvfp4 {

enum Layout : int { kRowMajor = 0, kSwizzled128x4 = 1, kSwizzled8x4 = 2 };

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

// How a program's threads lie over the matrix; all are logarithms to base 2
struct Geometry {
  int32_t threads;     // 6, 7 or 8
  int32_t quads;       // side by side; threads - 5 at most
  int32_t lane_quads;  // of these, the first; 3 at most
};

inline int rows_log(Geometry const& g) { return g.threads - 2 - g.quads; }  // rows of a program, 8 at least

struct Place {
  int32_t row;
  int32_t group;  // block of the row
};

// The block of a thread, and the least row of its program; `pass` counts the blocks of a thread.
template <int kLayout>
QM_DEVICE Place place_of(int32_t program, int thread, int pass, int passes, Divisor const& across, Geometry const& g,
                         int32_t* first) {
  Place p;
  if (kLayout == kRowMajor) {
    // `across` programs take as many blocks as that many rows have: below 2^31, whatever M is
    int32_t const tile = passes << g.threads, down = quotient(program, across);
    int32_t const base = down * tile, start = (program - down * across.by) * tile;
    int32_t const at = start + (pass << g.threads) + thread, r = quotient(at, across);
    *first = base + quotient(start, across);
    p.row = base + r;
    p.group = at - r * across.by;
  } else {
    int32_t const down = quotient(program, across), column = program - down * across.by;
    int const low = (thread >> 2) & ((1 << g.lane_quads) - 1), t = thread >> (2 + g.lane_quads);
    int const others = g.quads - g.lane_quads, high = (t >> 3) & ((1 << others) - 1);
    int const i = (t & 7) + ((t >> (3 + others)) << 3);
    int const rows = g.threads - 2 - g.quads;
    p.group = (((column * passes + pass) << g.quads) + (high << g.lane_quads) + low) * 4 + (thread & 3);
    if (kLayout == kSwizzled128x4) {
      int const step = rows - 2;  // a quarter of the rows
      *first = ((down >> (5 - step)) << 7) + ((down & ((32 >> step) - 1)) << step);
      p.row = *first + ((i & 3) << 5) + (i >> 2);
    } else {
      *first = down << rows;
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
