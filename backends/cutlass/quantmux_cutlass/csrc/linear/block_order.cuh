// Which tile a CTA computes: the order in which tiles are taken decides what the L2 still holds.
//
// Tiles are taken in bands: `width` tiles wide along one dimension of y, walked along the other,
// the band's width first. 132 CTAs then work on about width x 132/width tiles at a time, and read
// (width + 132/width) rows of tiles from memory instead of 133.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define QM_BOTH __host__ __device__
#else
#define QM_BOTH
#endif

namespace qm {

enum Sharing : int {
  kAlone = 0,   // no cluster
  kShareW = 1,  // two CTAs of neighbouring rows of tiles: each loads half of w for both
  kShareX = 2,  // two CTAs of neighbouring columns: each loads half of x for both
  kSplitK = 3,  // `cluster` CTAs for one tile, each with its part of K
};

struct Order {
  int m_units, n_units;  // tiles along M and N, in units of what a cluster computes
  int width;             // of a band, at least 1
  int along_m;           // 1: bands are `width` units of M wide and walked along N; 0: the reverse
};

struct Tile {
  int m, n;  // indices of the tile
};

QM_BOTH inline Tile tile_of(Order const& order, int unit, int sharing, int rank) {
  unsigned const wide = order.along_m ? order.m_units : order.n_units;    // cut into bands
  unsigned const length = order.along_m ? order.n_units : order.m_units;  // walked
  unsigned const at = unit, band_units = order.width * length;
  unsigned const first = at / band_units * order.width;  // of this band
  unsigned const inside = at % band_units;
  unsigned const left = wide - first;
  unsigned const width = left < unsigned(order.width) ? left : order.width;
  unsigned const along = inside / width, across = first + inside % width;
  int m = order.along_m ? across : along, n = order.along_m ? along : across;
  if (sharing == kShareW) m = 2 * m + rank;
  if (sharing == kShareX) n = 2 * n + rank;
  return {m, n};
}

}  // namespace qm
