// What the stream kernel (stream.cuh) is given, what a tile's threads and registers hold, and where
// things lie in shared memory. Host and device compute the same from the same numbers.
#pragma once
#include <cstdint>

namespace stream {

enum Mode : int { FAST = 0, EXACT = 1, BLOCK = 2 };

constexpr int BK = 128;  // bytes of a row of K in a stage: the widest box under the swizzle

struct Arguments {
  float const* w_scales;
  float const* bias;
  float const* x_scales;
  uint16_t* y;
  int64_t w_scales_row;
  int64_t x_scales_row, x_scales_column;  // block: elements between tokens, between blocks of K
  int64_t y_row;
  int m, n, k_blocks;
  int w_by_row, x_by_row, out;
  int splits, share, stages;
};

// What threads and registers hold, and where things lie in dynamic shared memory.
template <int Mode, int BM, int NT, int Teams>
struct Shape {
  // Tokens are the tall operand, so that a tile may have any 16 rows of W more.
  static constexpr bool upright = NT % 64 != 0 || NT > 128;
  static constexpr int wide = upright ? 2 : NT / 64;  // warp groups of a team, beside each other
  static constexpr int strip = NT / wide;             // rows of W of a warp group
  static constexpr int team = 128 * wide;          // threads of a team
  static constexpr int consumers = team * Teams;
  static constexpr int threads = consumers + 32;
  static constexpr int narrow = upright ? strip : BM;  // side of the matrix instruction
  static constexpr int registers = narrow / 2;         // accumulators of a thread
  static constexpr int vector = registers >= 24 ? 4 : 2;  // of them in a group
  static constexpr int groups = registers / vector;
  static constexpr int mine = groups / Teams;      // groups that a team finishes
  static constexpr int piece = team * vector * 4;  // bytes of a group of all threads of a team
  static constexpr int scale_words = Mode == BLOCK ? BM + 4 : 0;  // of a stage: x's, then W's
  static constexpr bool two_sets = Mode != FAST && threads == 160;
  static constexpr int blocks = threads <= 288 && registers <= 36 ? 2 : 1;  // of a multiprocessor, by registers
  // The teams' sums meet in the ring, once it is free.
  static constexpr int ring_at_least = Teams > 1 ? Teams * groups * piece : 0;
  static_assert(!upright || (BM == 64 && NT % 16 == 0), "64 tokens fill the tall side");
  static_assert(groups % Teams == 0, "every team finishes as many groups");

  int w, x, inbox, scales, token_scales, row_scales, barriers, bytes;

  __host__ __device__ Shape(int splits, int stages) {
    int const owned = (mine + splits - 1) / splits;
    w = 0;
    x = w + stages * NT * BK;
    inbox = x + stages * BM * BK;
    scales = inbox + Teams * owned * (splits - 1) * piece;
    token_scales = scales + stages * scale_words * 4;
    row_scales = token_scales + BM * 4;
    barriers = row_scales + (upright ? 2 * NT * 4 : 0);
    bytes = barriers + (2 * stages + 1) * 8;
  }

};

}  // namespace stream
