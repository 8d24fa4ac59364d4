// A block of 16 values in the registers of one thread: reading it, its amax, its eight bytes of codes.
//
// 16-bit values stay packed as they were read: the largest magnitude is found two at a time, the
// signs of the codes are gathered from the words that were read (m is positive, so a product has the
// sign of x), and only the multiplication unpacks them.
#pragma once
#include <type_traits>

#include "nvfp4_math.cuh"

namespace qm_nvfp4 {

struct Codes {
  uint32_t low, high;  // eight codes each, the first column in the lowest nibble
};

QM_DEVICE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
QM_DEVICE float widened(__nv_bfloat16 v) { return __bfloat162float(v); }
QM_DEVICE float widened(__half v) { return __half2float(v); }
QM_DEVICE float widened(float v) { return v; }

// The low (0) or the high (1) half of a word, widened
template <class T>
QM_DEVICE float half_of(uint32_t word, int which) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return as_float(which ? word & 0xFFFF0000u : word << 16);
  } else {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(which ? word >> 16 : word & 0xFFFFu)));
  }
}

template <class T>
struct Block {  // bf16, fp16
  uint32_t w[8];

  QM_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = 0;
  }
  QM_DEVICE void read(T const* at) {
    uint4 const a = read16(at), b = read16(at + 8);
    w[0] = a.x; w[1] = a.y; w[2] = a.z; w[3] = a.w;
    w[4] = b.x; w[5] = b.y; w[6] = b.z; w[7] = b.w;
  }
  // `count` values with gaps between them; the others are 0
  QM_DEVICE void read(T const* at, int64_t stride, int count) {
    unsigned short const* p = reinterpret_cast<unsigned short const*>(at);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      uint32_t const low = 2 * i < count ? p[(2 * i) * stride] : 0u;
      uint32_t const high = 2 * i + 1 < count ? p[(2 * i + 1) * stride] : 0u;
      w[i] = low | (high << 16);
    }
  }
  QM_DEVICE float value(int i) const {
    return half_of<T>(w[i >> 1], i & 1);
  }
  // NaN where one is
  QM_DEVICE float amax() const {
    uint32_t const low = larger_halves(T{}, larger_halves(T{}, w[0], w[1]), larger_halves(T{}, w[2], w[3]));
    uint32_t const high = larger_halves(T{}, larger_halves(T{}, w[4], w[5]), larger_halves(T{}, w[6], w[7]));
    uint32_t const both = larger_halves(T{}, low, high);
    return larger_magnitude(half_of<T>(both, 0), half_of<T>(both, 1));
  }
  QM_DEVICE uint32_t signs(int half) const {
    return signs_of_halves(w[4 * half], w[4 * half + 1], w[4 * half + 2], w[4 * half + 3]);
  }
};

template <>
struct Block<float> {
  float v[16];

  QM_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = 0.0f;
  }
  QM_DEVICE void read(float const* at) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint4 const a = read16(at + 4 * i);
      v[4 * i] = as_float(a.x); v[4 * i + 1] = as_float(a.y); v[4 * i + 2] = as_float(a.z); v[4 * i + 3] = as_float(a.w);
    }
  }
  QM_DEVICE void read(float const* at, int64_t stride, int count) {
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = i < count ? at[i * stride] : 0.0f;
  }
  QM_DEVICE float value(int i) const { return v[i]; }
  QM_DEVICE float amax() const {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) most = larger(most, as_bits(v[i]) & kMagnitude);
    return as_float(most);
  }
  QM_DEVICE uint32_t signs(int half) const {
    float part[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) part[i] = v[8 * half + i];
    return signs_of_floats(part);
  }
};

QM_DEVICE uint32_t converted(float const (&p)[8]) {
  uint32_t word = 0;
#if QM_E2M1_INSTRUCTION
  asm("{\n.reg .b8 a, b, c, d;\n"
      "cvt.rn.satfinite.e2m1x2.f32 a, %2, %1;\n"
      "cvt.rn.satfinite.e2m1x2.f32 b, %4, %3;\n"
      "cvt.rn.satfinite.e2m1x2.f32 c, %6, %5;\n"
      "cvt.rn.satfinite.e2m1x2.f32 d, %8, %7;\n"
      "mov.b32 %0, {a, b, c, d};\n}"
      : "=r"(word)
      : "f"(p[0]), "f"(p[1]), "f"(p[2]), "f"(p[3]), "f"(p[4]), "f"(p[5]), "f"(p[6]), "f"(p[7]));
#endif
  return word;
}

template <class T>
QM_DEVICE uint32_t plain_word(Block<T> const& block, int half, float m) {
  float p[8];
#if QM_E2M1_INSTRUCTION
#pragma unroll
  for (int i = 0; i < 8; ++i) p[i] = times(block.value(8 * half + i), m);
  return converted(p);
#else
#pragma unroll
  for (int i = 0; i < 8; ++i) p[i] = e2m1_sum(times(fabsf(block.value(8 * half + i)), m));
  return gathered(p) | block.signs(half);
#endif
}

template <class T>
QM_DEVICE uint32_t any_word(Block<T> const& block, int half, float m) {
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) word |= any_code(times(block.value(8 * half + i), m)) << (4 * i);
  return word;
}

// Codes and scale of a block by the plain form; false, and nothing done, where some lane's block wants
// the other. All lanes of a warp call it.
template <class T>
QM_DEVICE bool plainly_quantized(Block<T> const& block, float inverse_global, Codes* codes, uint32_t* scale_code) {
  float const amax = block.amax();
  Scale const s = plain_scale(amax, inverse_global);
  float const m = plain_multiplier(s, inverse_global);
  if (!whole_warp(times(amax, m) < kBeyond)) return false;
  uint32_t const low = plain_word(block, 0, m), high = plain_word(block, 1, m);
  codes->low = s.usable ? low : 0;
  codes->high = s.usable ? high : 0;
  *scale_code = s.code;
  return true;
}

template <class T>
QM_DEVICE void anyhow_quantized(Block<T> const& block, float inverse_global, Codes* codes, uint32_t* scale_code) {
  Scale const s = any_scale(block.amax(), inverse_global);
  float const m = over(inverse_global, s.value);
  codes->low = s.usable ? any_word(block, 0, m) : 0;
  codes->high = s.usable ? any_word(block, 1, m) : 0;
  *scale_code = s.code;
}

template <class T>
QM_DEVICE Codes quantized(Block<T> const& block, float inverse_global, uint32_t* scale_code) {
  Codes made;
  if (!is_plain(inverse_global) || !plainly_quantized(block, inverse_global, &made, scale_code))
    anyhow_quantized(block, inverse_global, &made, scale_code);
  return made;
}

}  // namespace qm_nvfp4
