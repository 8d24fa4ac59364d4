// The arithmetic of NVFP4 blocks, to the bit that quantmux.ops.numerics defines:
//
//   G = RN(1/g)   s = e4m3(RN(RN(G * amax) / 6))   m = RN(G / s)   q = e2m1(RN(x * m))
//
// With QM_ON_HOST it compiles for the host too (a test runs it there against the reference). Two forms:
//
// * plain: G is an ordinary number (2^-60 < G < 2^100, so no intermediate result is subnormal or
//   overflows) and no |x| * m of the block reaches 7. Both divisions are products corrected by their
//   residual, the rounding to e2m1 is five fp32 operations, of which none is a clamp.
// * any: IEEE divisions, clamps, NaN looked at. For all other blocks, and the 31 beside such a one: they
//   are rare, so its cost does not matter.
//
// Division a / b by way of y, which is 1 / b within a unit in the last place: q = a * y is off by a
// few units at most, and fma(fma(-b, q, a), y, q) is RN(a / b) for b = 6 and every a, and for b of
// four significant bits (all an e4m3 has) and every a. tests/backends/triton/test_nvfp4_replayed.py
// looks at all significands of a and b, since powers of two change nothing.
//
// Rounding to e2m1 (0 0.5 1 1.5 2 3 4 6: steps of 0.5 below 2, of 1 up to 4, of 2 above): adding C
// to a, where C is so large that its unit in the last place is the step, rounds a to nearest even,
// and the code is what then stands in the low bits of the sum, if C also brings what lies below the
// octave: C = 2^22, 2^23 + 2, 2^24 + 8 have units 0.5, 1, 2, and their mantissas hold 0, 2, 4 units.
// Which C is told by two saturating products, 0 or 1: h = sat((a - 2) * 2^30), k = sat((a - 4) *
// 2^30). At a = 2 and a = 4 both neighbours give the same code.
#pragma once
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// The device code, or with QM_ON_HOST the same functions for the host
#ifdef QM_ON_HOST
#include <cmath>
#include <cstdlib>
#include <cstring>
#define QM_DEVICE inline
#else
#define QM_DEVICE __device__ __forceinline__
#endif

// sm_100 and sm_120 have an instruction for pairs; 100f and 120f define no FEAT_ macro
#if defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1000
#define QM_E2M1_INSTRUCTION 1
#elif defined(__CUDA_ARCH_FEAT_SM100_ALL) || defined(__CUDA_ARCH_FEAT_SM120_ALL)
#define QM_E2M1_INSTRUCTION 1
#else
#define QM_E2M1_INSTRUCTION 0
#endif

namespace qm_nvfp4 {

constexpr uint32_t kInfinity = 0x7F800000u;
constexpr uint32_t kMagnitude = 0x7FFFFFFFu;
constexpr uint32_t kNanCode = 0x7Fu;
constexpr float kSixth = 0.16666667163372039795f;  // RN(1/6)
constexpr float kLeastPlain = 8.6736173798840355e-19f;  // 2^-60
constexpr float kMostPlain = 1.2676506002282294e30f;    // 2^100
constexpr float kBeyond = 7.0f;                    // from here on the plain rounding gives code 8
constexpr float kLeastAmax = 8.6736173798840355e-19f;  // 2^-60, quantmux.ops.numerics.NVFP4_AMAX_FLOOR
constexpr float kDenominator = 2688.0f;            // 448 * 6

#ifndef QM_ON_HOST
QM_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
QM_DEVICE uint32_t as_bits(float value) { return __float_as_uint(value); }
QM_DEVICE float times(float a, float b) { return __fmul_rn(a, b); }
QM_DEVICE float plus(float a, float b) { return __fadd_rn(a, b); }
QM_DEVICE float over(float a, float b) { return __fdiv_rn(a, b); }
QM_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
QM_DEVICE float fused_sat(float a, float b, float c) {
  float d;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
}
QM_DEVICE float near_inverse(float b) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(b));
  return d;
}
QM_DEVICE uint32_t permuted(uint32_t a, uint32_t b, uint32_t how) {
  return __byte_perm(a, b, how);
}
// The larger magnitude of each half of two words, with some sign; NaN where one is
QM_DEVICE uint32_t larger_halves(__nv_bfloat16, uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
QM_DEVICE uint32_t larger_halves(__half, uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.xorsign.abs.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
QM_DEVICE float larger_magnitude(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(fabsf(a)), "f"(fabsf(b)));
  return d;
}
QM_DEVICE uint4 read16(void const* at) {
  // Read once, so first to leave L1. Not by the read-only path: with overlapping launches x may have
  // been written while this kernel was already there, waiting.
  uint4 v;
  asm volatile("ld.global.L1::evict_first.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(at));
  return v;
}
QM_DEVICE float inverse(float v) { return __frcp_rn(v); }
QM_DEVICE bool some_of_warp(bool mine) { return __any_sync(0xFFFFFFFFu, mine); }
QM_DEVICE bool whole_warp(bool mine) { return __all_sync(0xFFFFFFFFu, mine); }
// the lowest byte: nearest even, saturated at 448, NaN 0x7F
QM_DEVICE uint32_t to_e4m3(float value) {
  uint16_t two;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(two) : "f"(0.0f), "f"(value));
  return two;
}
#else
inline float as_float(uint32_t bits) { float v; std::memcpy(&v, &bits, 4); return v; }
inline uint32_t as_bits(float value) { uint32_t b; std::memcpy(&b, &value, 4); return b; }
inline float times(float a, float b) { return a * b; }
inline float plus(float a, float b) { return a + b; }
inline float over(float a, float b) { return a / b; }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float fused_sat(float a, float b, float c) {
  float const d = std::fma(a, b, c);
  return d > 0.0f ? (d < 1.0f ? d : 1.0f) : 0.0f;
}
#ifndef QM_INVERSE_ERROR
#define QM_INVERSE_ERROR 0  // units by which the host's inverse is off, as an instruction's may be
#endif
inline float near_inverse(float b) { return as_float(as_bits(1.0f / b) + (QM_INVERSE_ERROR)); }
inline uint32_t permuted(uint32_t a, uint32_t b, uint32_t how) {
  uint64_t const all = (uint64_t(b) << 32) | a;
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) made |= uint32_t((all >> (8 * ((how >> (4 * i)) & 7))) & 0xFF) << (8 * i);
  return made;
}
template <class T>
uint32_t larger_halves(T, uint32_t a, uint32_t b) {  // as integers: NaN above Inf above every number
  a &= 0x7FFF7FFFu;
  b &= 0x7FFF7FFFu;
  uint32_t const low = (a & 0xFFFFu) > (b & 0xFFFFu) ? a & 0xFFFFu : b & 0xFFFFu;
  return ((a >> 16) > (b >> 16) ? a >> 16 : b >> 16) << 16 | low;
}
inline float larger_magnitude(float a, float b) {
  uint32_t const x = as_bits(a) & kMagnitude, y = as_bits(b) & kMagnitude;
  return as_float(x > y ? x : y);
}
inline uint4 read16(void const* at) {
  uint4 v;
  if (reinterpret_cast<uintptr_t>(at) & 15) std::abort();
  std::memcpy(&v, at, 16);
  return v;
}
inline float inverse(float v) { return 1.0f / v; }
inline bool some_of_warp(bool) { return true; }
inline bool whole_warp(bool mine) { return mine; }
inline uint32_t to_e4m3(float value) {
  if (!(value == value)) return kNanCode;
  uint32_t const bits = as_bits(value) & kMagnitude, bounded = bits < 0x43E00000u ? bits : 0x43E00000u;
  uint32_t const tiny = as_bits(as_float(bounded) + 16384.0f) - as_bits(16384.0f);
  uint32_t const half = 0x7FFFFu + ((bounded >> 20) & 1u);
  uint32_t const code = bounded < 0x3C800000u ? tiny : ((bounded + half) >> 20) - (120u << 3);
  return code | ((as_bits(value) >> 24) & 0x80u);
}
#endif

// RN(a / b); y is 1 / b within a unit
QM_DEVICE float corrected(float a, float b, float y) {
  float const q = times(a, y);
  return fused(fused(-b, q, a), y, q);
}

// a scale: its code, and whether codes of the block can be anything but 0
struct Scale {
  uint32_t code;
  float value;  // 1 where it is not usable
  bool usable;
};

QM_DEVICE Scale scale_of_code(uint32_t code) {
  Scale made;
  made.code = code & 0xFFu;
  made.usable = made.code > 0 && made.code < kNanCode;
  // in e4m3 as in fp32 the exponent is above the mantissa: shifted, a code is s * 2^-120
  made.value = made.usable ? times(as_float(made.code << 20), 1.329227995784916e36f) : 1.0f;
  return made;
}

QM_DEVICE bool is_plain(float inverse_global) {
  return inverse_global > kLeastPlain && inverse_global < kMostPlain;
}

// s and m of a block whose |x| * m stay below kBeyond, which the caller sees to: it leaves those to
// `any_scale`, and with them the blocks that hold NaN or Inf and those where G * amax overflows
QM_DEVICE Scale plain_scale(float amax, float inverse_global) {
  return scale_of_code(to_e4m3(corrected(times(amax, inverse_global), 6.0f, kSixth)));
}

QM_DEVICE float plain_multiplier(Scale scale, float inverse_global) {
  float const rough = near_inverse(scale.value);
  float const y = fused(fused(-scale.value, rough, 1.0f), rough, rough);
  return corrected(inverse_global, scale.value, y);
}

QM_DEVICE Scale any_scale(float amax, float inverse_global) {
  float const q = over(times(inverse_global, amax), 6.0f);
  return scale_of_code(to_e4m3(as_bits(amax) < kInfinity ? q : as_float(0x7FC00000u)));
}

// an fp32 whose lowest byte is the e2m1 code of 0 <= a < 7
QM_DEVICE float e2m1_sum(float a) {
  float const h = fused_sat(a, 1073741824.0f, -2147483648.0f);
  float const k = fused_sat(a, 1073741824.0f, -4294967296.0f);
  float const c = fused(k, 8388614.0f, fused(h, 4194306.0f, 4194304.0f));
  return plus(a, c);
}

// the code of any p: saturated, its sign kept, NaN 0
QM_DEVICE uint32_t any_code(float p) {
  uint32_t const bits = as_bits(p);
  float const a = as_float(bits & kMagnitude);
  if (!(p == p)) return 0;
  return (as_bits(e2m1_sum(a < 6.0f ? a : 6.0f)) & 7u) | ((bits >> 28) & 8u);
}

// g of the largest finite magnitude of a tensor, given by its bits
QM_DEVICE float global_of(uint32_t amax_bits) {
  float const amax = as_float(amax_bits);
  return amax_bits == 0 ? 1.0f : over(amax > kLeastAmax ? amax : kLeastAmax, kDenominator);
}

// Eight codes without signs into the nibbles of a word, from eight sums
QM_DEVICE uint32_t gathered(float const (&t)[8]) {
  uint32_t const even = permuted(permuted(as_bits(t[0]), as_bits(t[2]), 0x0040), permuted(as_bits(t[4]), as_bits(t[6]), 0x0040), 0x5410);
  uint32_t const odd = permuted(permuted(as_bits(t[1]), as_bits(t[3]), 0x0040), permuted(as_bits(t[5]), as_bits(t[7]), 0x0040), 0x5410);
  return even + (odd << 4);
}

// Eight signs into bit 3 of every nibble, from four words of two 16-bit floats ...
QM_DEVICE uint32_t signs_of_halves(uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  uint32_t const a = permuted(w0, w1, 0x7531), b = permuted(w2, w3, 0x7531);
  uint32_t const even = permuted(a, b, 0x6420), odd = permuted(a, b, 0x7531);
  return ((even >> 4) & 0x08080808u) | (odd & 0x80808080u);
}

// ... or from eight fp32
QM_DEVICE uint32_t signs_of_floats(float const (&v)[8]) {
  uint32_t const even = permuted(permuted(as_bits(v[0]), as_bits(v[2]), 0x0073), permuted(as_bits(v[4]), as_bits(v[6]), 0x0073), 0x5410);
  uint32_t const odd = permuted(permuted(as_bits(v[1]), as_bits(v[3]), 0x0073), permuted(as_bits(v[5]), as_bits(v[7]), 0x0073), 0x5410);
  return ((even >> 4) & 0x08080808u) | (odd & 0x80808080u);
}

}  // namespace qm_nvfp4
