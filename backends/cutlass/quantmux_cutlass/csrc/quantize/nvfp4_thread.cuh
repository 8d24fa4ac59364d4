// What one thread of the quantizer does, in the order of the kernel.
#pragma once
#include "nvfp4_block.cuh"
#include "nvfp4_place.cuh"

namespace qm_nvfp4 {

struct Arguments {
  void const* x;
  uint8_t* data;        // [padded_m, padded_n / 2]
  uint8_t* scales;
  void const* source;   // `parts` magnitudes of the search, or (parts = 0) the given g
  float* made;          // g, written
  int64_t row_stride, column_stride;
  int32_t m, padded_m, scale_rows;
  int32_t n, groups, quads;  // blocks of a stored row; columns of scales over 4 (row_major: blocks)
  int32_t parts, programs;   // programs that quantize; those after them only store zeros
  int32_t zero_row;          // 128x4: in the last tiles, rows from here on (of 32) are such zeros
  int32_t down;              // rows from tile to tile of a program, and what that is in bytes
  int64_t x_down, data_down, scales_down;
  Geometry geometry;
  Divisor across, zero_rows;
};

// Scales of rows that no row of x is near, in the last tiles of 128x4, 16 bytes a thread: four rows
QM_DEVICE void zero_thread(Arguments const& p, int32_t program, int thread) {
  int32_t const i = ((program - p.programs) << p.geometry.threads) + thread, quad = quotient(i, p.zero_rows);
  if (quad >= p.quads) return;
  int64_t const tile = int64_t((p.scale_rows >> 7) - 1) * p.quads + quad;
  int32_t const row = p.zero_row + (i - quad * p.zero_rows.by);
  *reinterpret_cast<uint4*>(p.scales + tile * 512 + row * 16) = make_uint4(0, 0, 0, 0);
}

// `address` is where the block begins in x, whether it is there or not
template <class T, bool kAligned>
QM_DEVICE void read_block(Arguments const& p, bool row_inside, int column, T const* address, Block<T>* block) {
  if (kAligned && row_inside && column + 16 <= p.n) {
    block->read(address);
  } else if (row_inside && column < p.n) {
    block->read(address, kAligned ? 1 : p.column_stride, p.n - column);
  } else {
    block->clear();
  }
}

template <bool kAligned>
QM_DEVICE void store_codes(uint8_t* to, Codes codes) {
  if (kAligned) {
    *reinterpret_cast<uint2*>(to) = make_uint2(codes.low, codes.high);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      to[j] = static_cast<uint8_t>(codes.low >> (8 * j));
      to[4 + j] = static_cast<uint8_t>(codes.high >> (8 * j));
    }
  }
}

// The tiles of a program for a warp that has rows of x in all of them, and in none a part of a block: no
// question but for the values. Lanes beyond the last column of x have blocks of 0. `block` is that of the
// first tile, read already. With kAhead the next is asked for before this one is worked on.
template <class T, bool kAhead>
QM_DEVICE void whole_tiles(Arguments const& p, Block<T> block, char const* x, uint8_t* data, uint8_t* scales,
                           int32_t tiles, float inverse_global, bool has_x, bool has_codes, bool has_scale) {
  Block<T> next;
  next.clear();
#pragma unroll 1
  for (;;) {
    --tiles;
    x += p.x_down;
    if (kAhead && tiles && has_x) next.read(reinterpret_cast<T const*>(x));
    Codes codes;
    uint32_t scale;
    if (!plainly_quantized(block, inverse_global, &codes, &scale)) anyhow_quantized(block, inverse_global, &codes, &scale);
    if (has_scale) *scales = static_cast<uint8_t>(scale);
    if (has_codes) store_codes<true>(data, codes);
    if (tiles == 0) return;
    data += p.data_down;
    scales += p.scales_down;
    if (kAhead) block = next;
    else if (has_x) block.read(reinterpret_cast<T const*>(x));
  }
}

// `before` waits for the kernel before, not sooner than its argument is known: what a thread computes of
// places and addresses is done while it would wait. `global` gives g, to all threads of a program at
// once, and is asked after x is: both come from afar.
template <class T, int kLayout, bool kAligned, bool kAhead, class Before, class Global>
QM_DEVICE void quantize_thread(Arguments const& p, int32_t program, int thread, Before const& before,
                               Global const& global) {
  if (kLayout == kSwizzled128x4 && program >= p.programs) {
    before(0);
    zero_thread(p, program, thread);
    return;
  }
  int32_t first;
  Place const place = place_of<kLayout>(program, thread, p.across, p.geometry, &first);
  int32_t row = place.row, tiles = 1 << p.geometry.tiles;
  int const group = place.group, column = group * 16;
  int64_t const at = row * p.row_stride + (kAligned ? int64_t(column) : column * p.column_stride);
  char const* x = static_cast<char const*>(p.x) + at * int64_t(sizeof(T));
  uint8_t* data = p.data + (int64_t(row) * p.groups + group) * 8;
  uint8_t* scales = p.scales + scale_byte<kLayout>(place, p.quads);
  bool const is_there = column < p.n, has_codes = group < p.groups;
  bool const has_scale = kLayout == kRowMajor ? has_codes : (group >> 2) < p.quads;
  bool const is_whole = kAligned && whole_warp(row + (tiles - 1) * p.down < p.m && (!is_there || column + 16 <= p.n));
  before(reinterpret_cast<uint64_t>(x));

  bool knows_g = first >= p.m;
  float inverse_global = 0.0f;
  auto const know_g = [&] {
    float const g = global();
    if (program == 0 && thread == 0) *p.made = g;
    inverse_global = inverse(g);
    knows_g = true;
  };
  if (is_whole) {
    Block<T> block;
    block.clear();
    if (is_there) block.read(reinterpret_cast<T const*>(x));
    know_g();
    if (is_plain(inverse_global))
      return whole_tiles<T, kAhead>(p, block, x, data, scales, tiles, inverse_global, is_there, has_codes, has_scale);
  }
#pragma unroll 1
  for (;;) {
    bool const inside = row < p.m && is_there;
    Block<T> block;
    read_block<T, kAligned>(p, row < p.m, column, reinterpret_cast<T const*>(x), &block);
    if (!knows_g) know_g();
    uint32_t scale = 0;
    Codes codes{0, 0};
    if (some_of_warp(inside)) {
      codes = quantized(block, inverse_global, &scale);
      if (!inside) scale = 0;
    }
    if (row < p.scale_rows && has_scale) *scales = static_cast<uint8_t>(scale);
    if (row < p.padded_m && has_codes) store_codes<kAligned>(data, codes);
    if (--tiles == 0) return;
    row += p.down;
    x += p.x_down;
    data += p.data_down;
    scales += p.scales_down;
  }
}

}  // namespace qm_nvfp4
