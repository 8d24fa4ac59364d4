// What the library of row_tile.cuh and row_split.cuh has, and what it refuses. Plain C++, so that
// it is tested without a GPU.
#pragma once
#include "abi.cuh"

#include "block_order.cuh"

namespace qm {

enum RowForm : int {
  kPingPong = 0,    // each math group its own tile
  kTogether = 1,    // both groups one tile
  kTogetherExact = 2,
  kDivided = 3,     // both groups one tile, K divided over a cluster
  kDividedExact = 4,
};

// TILE(columns, waves of 64 rows of a group, form); DIVIDED(columns, form) has 128 rows.
// clang-format off
#define QM_ROW_TILES(TILE, DIVIDED)                                                              \
  TILE(32, 1, kPingPong) TILE(48, 1, kPingPong) TILE(64, 1, kPingPong) TILE(80, 1, kPingPong)    \
  TILE(96, 1, kPingPong) TILE(112, 1, kPingPong) TILE(128, 1, kPingPong) TILE(144, 1, kPingPong) \
  TILE(160, 1, kPingPong) TILE(192, 1, kPingPong) TILE(224, 1, kPingPong)                        \
  TILE(256, 1, kPingPong)                                                                        \
  TILE(64, 2, kPingPong) TILE(80, 2, kPingPong) TILE(96, 2, kPingPong) TILE(112, 2, kPingPong)   \
  TILE(128, 2, kPingPong) TILE(144, 2, kPingPong) TILE(160, 2, kPingPong)                        \
  TILE(176, 2, kPingPong) TILE(192, 2, kPingPong)                                                \
  TILE(192, 1, kTogether) TILE(224, 1, kTogether) TILE(256, 1, kTogether)                        \
  TILE(112, 2, kTogether) TILE(128, 2, kTogether) TILE(160, 2, kTogether)                        \
  TILE(192, 2, kTogether)                                                                        \
  TILE(64, 1, kTogetherExact) TILE(96, 1, kTogetherExact) TILE(128, 1, kTogetherExact)           \
  TILE(160, 1, kTogetherExact) TILE(192, 1, kTogetherExact)                                      \
  TILE(64, 2, kTogetherExact) TILE(96, 2, kTogetherExact) TILE(128, 2, kTogetherExact)           \
  DIVIDED(48, kDivided) DIVIDED(64, kDivided) DIVIDED(80, kDivided) DIVIDED(96, kDivided)        \
  DIVIDED(112, kDivided) DIVIDED(128, kDivided) DIVIDED(144, kDivided) DIVIDED(160, kDivided)    \
  DIVIDED(64, kDividedExact) DIVIDED(96, kDividedExact) DIVIDED(128, kDividedExact)
// clang-format on

struct RowTile {
  int bn, bm, form;
};

constexpr int row_tile_rows(int waves, int form) {
  return 64 * waves * (form == kPingPong ? 1 : 2);
}

#define QM_TILE(bn, waves, form) {bn, row_tile_rows(waves, form), form},
#define QM_DIVIDED(bn, form) {bn, 128, form},
constexpr RowTile kRowTiles[] = {QM_ROW_TILES(QM_TILE, QM_DIVIDED)};
#undef QM_TILE
#undef QM_DIVIDED

constexpr int kMostSplits = 8;
constexpr int kMostExtent = INT32_MAX - 512;  // beyond, a tile's coordinates would overflow

// K is divided: a tile's 128 rows and `groups` times 32 columns are 8 · groups chunks, one warp's
// 16 rows and 32 columns each. Chunk c is finished by one CTA of the cluster, in one place there.
struct Chunks {
  int groups, cluster;
  QM_BOTH int count() const { return 8 * groups; }
  QM_BOTH int places() const { return (count() + cluster - 1) / cluster; }
  QM_BOTH int owner(int chunk) const { return chunk % cluster; }
  QM_BOTH int place(int chunk) const { return chunk / cluster; }
  QM_BOTH int at(int owner, int place) const { return owner + cluster * place; }
};

inline bool row_aligned(void const* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

// Index into kRowTiles, -1 where no such tile is compiled.
inline int find_row_tile(QmProblem const& p) {
  int at = 0;
  for (RowTile const& tile : kRowTiles) {
    if (tile.bn == p.option[0] && tile.bm == p.option[1] && tile.form == p.option[2]) return at;
    ++at;
  }
  return -1;
}

inline int check_row_strides(int n, int k, int64_t x_row, int64_t y_row) {
  return x_row < k || y_row < n || x_row % 16 ? QM_STRIDE : QM_OK;
}

inline int check_row_options(QmProblem const& p) {
  if (p.out < 0 || p.out > 1 || find_row_tile(p) < 0) return QM_OPTION;
  int const form = p.option[2], sharing = p.option[3], splits = p.option[6];
  if (sharing < kAlone || sharing > kShareX || p.option[4] < 1 || p.option[5] < 0 ||
      p.option[5] > 1) {
    return QM_OPTION;
  }
  if (form != kDivided && form != kDividedExact) {
    return splits != 0 || (sharing != kAlone && p.sms < 2) ? QM_OPTION : QM_OK;
  }
  // Every CTA of the cluster needs a block of K.
  bool const fits = splits >= 2 && splits <= kMostSplits && splits <= p.sms &&
                    splits <= (p.k + 127) / 128;
  return fits && sharing == kAlone ? QM_OK : QM_OPTION;
}

inline int check_row_problem(QmProblem const& p) {
  if (p.bytes != sizeof(QmProblem) || p.abi != QM_ABI_VERSION) return QM_VERSION;
  if (!p.w || !p.w_scales) return QM_NULL;
  if (p.n <= 0 || p.k <= 0 || p.sms <= 0 || p.device < 0) return QM_SHAPE;
  if (p.n > kMostExtent || p.k > kMostExtent) return QM_SHAPE;
  if (!row_aligned(p.w, 16) || !row_aligned(p.w_scales, 4) || !row_aligned(p.bias, 4)) {
    return QM_ALIGNMENT;
  }
  if (p.w_row < p.k || p.w_row % 16) return QM_STRIDE;
  if (int const status = check_row_options(p)) return status;
  return check_row_strides(p.n, p.k, p.x_row, p.y_row);
}

// What a call brings, M > 0.
inline int check_row_call(void const* x, void const* x_scales, void const* y) {
  if (!x || !x_scales || !y) return QM_NULL;
  bool const fits = row_aligned(x, 16) && row_aligned(x_scales, 4) && row_aligned(y, 2);
  return fits ? QM_OK : QM_ALIGNMENT;
}

}  // namespace qm
