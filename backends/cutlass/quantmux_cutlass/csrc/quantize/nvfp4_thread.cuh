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

// Where a block begins in x, whether it is there or not
template <class T, bool kAligned>
QM_DEVICE T const* address_of(Arguments const& p, Place at) {
  int64_t const column = at.group * 16;
  return static_cast<T const*>(p.x) + (int64_t(at.row) * p.row_stride + (kAligned ? column : column * p.column_stride));
}

template <class T, bool kAligned>
QM_DEVICE void read_block(Arguments const& p, Place at, T const* address, Block<T>* block) {
  int const column = at.group * 16;
  bool const inside = at.row < p.m;
  if (kAligned && inside && column + 16 <= p.n) {
    block->read(address);
  } else if (inside && column < p.n) {
    block->read(address, kAligned ? 1 : p.column_stride, p.n - column);
  } else {
    block->clear();
  }
}

template <int kLayout, bool kAligned>
QM_DEVICE void store_block(Arguments const& p, Place at, Codes codes, uint32_t scale) {
  if (kLayout == kRowMajor) {
    if (at.row < p.padded_m) p.scales[scale_byte<kLayout>(at, p.quads)] = static_cast<uint8_t>(scale);
  } else {
    // the four lanes of a quad put their bytes together
    uint32_t const word = quad_word(scale, at.group & 3);
    if (owns_quad_word(at.group & 3) && at.row < p.scale_rows && (at.group >> 2) < p.quads)
      store_quad_word(p.scales + scale_byte<kLayout>(at, p.quads), word, at.group & 3);
  }
  if (at.row < p.padded_m && at.group < p.groups) {
    uint8_t* to = p.data + int64_t(at.row) * p.groups * 8 + at.group * 8;
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
}

// `before` waits for the kernel before, not sooner than its argument is known: what a thread computes of
// places and addresses is done while it would wait. `global` gives g, to all threads of a program at once
template <class T, int kLayout, bool kAligned, int kPasses, class Before, class Global>
QM_DEVICE void quantize_thread(Arguments const& p, int32_t program, int thread, Before const& before,
                               Global const& global) {
  if (kLayout == kSwizzled128x4 && program >= p.programs) {
    before(0);
    zero_thread(p, program, thread);
    return;
  }
  int32_t first;
  Place place[kPasses];
  T const* address[kPasses];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    place[i] = place_of<kLayout>(program, thread, i, kPasses, p.across, p.geometry, &first);
    address[i] = address_of<T, kAligned>(p, place[i]);
  }
  before(reinterpret_cast<uint64_t>(address[kPasses - 1]));
  Block<T> block[kPasses];
  float inverse_global = 0.0f;
  if (first < p.m) {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) read_block<T, kAligned>(p, place[i], address[i], &block[i]);
    float const g = global();
    if (program == 0 && thread == 0) *p.made = g;
    inverse_global = inverse(g);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    Place const at = place[i];
    bool const inside = at.row < p.m && at.group * 16 < p.n;
    uint32_t scale = 0;
    Codes codes{0, 0};
    if (some_of_warp(inside)) {
      codes = quantized(block[i], inverse_global, &scale);
      if (!inside) scale = 0;
    }
    store_block<kLayout, kAligned>(p, at, codes, scale);
  }
}

}  // namespace qm_nvfp4
