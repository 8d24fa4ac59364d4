// What one thread does, in the order of a kernel. `Global` gives g once the values are asked for.
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
  int32_t parts, quads_log;
  Divisor across;
};

template <class T, int kLayout, bool kAligned, int kPasses, class Before, class Global>
QM_DEVICE void quantize_thread(Arguments const& p, int32_t program, int thread, Before const& before,
                               Global const& global) {
  int32_t first;
  Place place[kPasses];
#pragma unroll
  for (int i = 0; i < kPasses; ++i)
    place[i] = place_of<kLayout>(program, thread, i, kPasses, p.across, p.quads_log, &first);
  before();
  bool const has_values = first < p.m;
  Block<T> block[kPasses];
  if (has_values) {
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      int const column = place[i].group * 16;
      T const* at = static_cast<T const*>(p.x) + int64_t(place[i].row) * p.row_stride;
      if (kAligned && place[i].row < p.m && column + 16 <= p.n) {
        block[i].read(at + column);
      } else if (place[i].row < p.m && column < p.n) {
        int64_t const stride = kAligned ? 1 : p.column_stride;
        block[i].read(at + column * stride, stride, p.n - column);
      } else {
        block[i].clear();
      }
    }
  }
  float inverse_global = 0.0f;
  if (has_values) {
    float const g = global();
    if (program == 0 && thread == 0) *p.made = g;
    inverse_global = inverse(g);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    Place const at = place[i];
    uint32_t scale = 0;
    Codes codes{0, 0};
    if (has_values) {
      codes = quantized(block[i], inverse_global, &scale);
      if (at.row >= p.m || at.group * 16 >= p.n) scale = 0;
    }
    if (kLayout == kRowMajor ? at.row < p.padded_m : at.row < p.scale_rows && at.group < p.quads * 4)
      p.scales[scale_byte<kLayout>(at, p.quads)] = static_cast<uint8_t>(scale);
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
}

}  // namespace qm_nvfp4
