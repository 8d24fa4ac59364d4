// Which block of 16 values a thread has, and where its scale goes.
//
// A program takes a tile of rows and quads (4 blocks) and goes down from tile to tile, so that what a
// thread computes of places is done once: afterwards everything moves by fixed amounts.
//
// From its lowest bits up, a thread's index counts: 4 columns of a quad, `lane_quads` quads, rows, the
// other quads. In the swizzled layouts the 32 bytes of a sector of scales are those of a quad and 8
// rows: in 8x4 of 8 rows in sequence, in 128x4 of the rows r and r + 1 and both 32, 64 and 96 further
// down. So there a tile has 8 rows, or a power of two times as many where rows are short, and a sector
// is filled by one program. With 8 quads first a warp reads 1 KiB of one row.
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

// How a program's threads lie over a tile; all are logarithms to base 2
struct Geometry {
  int32_t threads;     // 6, 7 or 8
  int32_t quads;       // of a tile
  int32_t lane_quads;  // of these, the first; 3 at most
  int32_t tiles;       // that a program goes down
};

inline int rows_log(Geometry const& g) { return g.threads - 2 - g.quads; }

struct Place {
  int32_t row;
  int32_t group;  // block of the row
};

// The block of a thread in the first tile of its program, and the least row of that tile
template <int kLayout>
QM_DEVICE Place place_of(int32_t program, int thread, Divisor const& across, Geometry const& g, int32_t* first) {
  Place p;
  int32_t const down = quotient(program, across), column = program - down * across.by, tile = down << g.tiles;
  int const rows = g.threads - 2 - g.quads, others = g.quads - g.lane_quads;
  // sectors of scales want 8 rows before further quads; without them all rows come first
  int const near = kLayout == kRowMajor ? rows : 3;
  int const low = (thread >> 2) & ((1 << g.lane_quads) - 1), t = thread >> (2 + g.lane_quads);
  int const high = (t >> near) & ((1 << others) - 1);
  int const i = (t & ((1 << near) - 1)) + ((t >> (near + others)) << near);
  p.group = ((column << g.quads) + (high << g.lane_quads) + low) * 4 + (thread & 3);
  if (kLayout == kSwizzled128x4) {
    int const step = rows - 2;  // a quarter of the rows
    *first = ((tile >> (5 - step)) << 7) + ((tile & ((32 >> step) - 1)) << step);
    p.row = *first + ((i & 3) << 5) + (i >> 2);
  } else {
    *first = tile << rows;
    p.row = *first + i;
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
