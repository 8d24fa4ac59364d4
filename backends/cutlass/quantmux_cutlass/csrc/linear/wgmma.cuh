// wgmma.m64nNk32 e4m3 x e4m3 -> fp32 for every N the tensor core has (8, 16, ... 256), both operands
// in shared memory, both K-contiguous (FP8 has no other form). Included by hopper.cuh only.
//
// d += A[64, 32] * B[N, 32]^T; with add = 0 the old d is not read. PTX wants the registers of d
// spelled out, so each shape extends the lists of the one before it by its four registers.
//
// Which element a register holds (PTX ISA, "wgmma matrix fragments"): with warp = the warp of the
// warpgroup and lane = the lane, d[4 * j + 2 * h + c] is row 16 * warp + lane / 4 + 8 * h, column
// 8 * j + 2 * (lane % 4) + c.
#pragma once
#include <cstdint>

namespace qm {

template <int N>
struct Wgmma;  // ::add(d, a, b, add): d is float[N / 2]

#define QM_S8 "%0, %1, %2, %3"
#define QM_D8(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define QM_S16 QM_S8 ", %4, %5, %6, %7"
#define QM_D16(d) QM_D8(d), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define QM_S24 QM_S16 ", %8, %9, %10, %11"
#define QM_D24(d) QM_D16(d), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define QM_S32 QM_S24 ", %12, %13, %14, %15"
#define QM_D32(d) QM_D24(d), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define QM_S40 QM_S32 ", %16, %17, %18, %19"
#define QM_D40(d) QM_D32(d), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define QM_S48 QM_S40 ", %20, %21, %22, %23"
#define QM_D48(d) QM_D40(d), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define QM_S56 QM_S48 ", %24, %25, %26, %27"
#define QM_D56(d) QM_D48(d), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define QM_S64 QM_S56 ", %28, %29, %30, %31"
#define QM_D64(d) QM_D56(d), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define QM_S72 QM_S64 ", %32, %33, %34, %35"
#define QM_D72(d) QM_D64(d), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define QM_S80 QM_S72 ", %36, %37, %38, %39"
#define QM_D80(d) QM_D72(d), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define QM_S88 QM_S80 ", %40, %41, %42, %43"
#define QM_D88(d) QM_D80(d), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define QM_S96 QM_S88 ", %44, %45, %46, %47"
#define QM_D96(d) QM_D88(d), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define QM_S104 QM_S96 ", %48, %49, %50, %51"
#define QM_D104(d) QM_D96(d), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define QM_S112 QM_S104 ", %52, %53, %54, %55"
#define QM_D112(d) QM_D104(d), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define QM_S120 QM_S112 ", %56, %57, %58, %59"
#define QM_D120(d) QM_D112(d), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define QM_S128 QM_S120 ", %60, %61, %62, %63"
#define QM_D128(d) QM_D120(d), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define QM_S136 QM_S128 ", %64, %65, %66, %67"
#define QM_D136(d) QM_D128(d), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define QM_S144 QM_S136 ", %68, %69, %70, %71"
#define QM_D144(d) QM_D136(d), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define QM_S152 QM_S144 ", %72, %73, %74, %75"
#define QM_D152(d) QM_D144(d), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define QM_S160 QM_S152 ", %76, %77, %78, %79"
#define QM_D160(d) QM_D152(d), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define QM_S168 QM_S160 ", %80, %81, %82, %83"
#define QM_D168(d) QM_D160(d), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define QM_S176 QM_S168 ", %84, %85, %86, %87"
#define QM_D176(d) QM_D168(d), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define QM_S184 QM_S176 ", %88, %89, %90, %91"
#define QM_D184(d) QM_D176(d), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define QM_S192 QM_S184 ", %92, %93, %94, %95"
#define QM_D192(d) QM_D184(d), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define QM_S200 QM_S192 ", %96, %97, %98, %99"
#define QM_D200(d) QM_D192(d), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define QM_S208 QM_S200 ", %100, %101, %102, %103"
#define QM_D208(d) QM_D200(d), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define QM_S216 QM_S208 ", %104, %105, %106, %107"
#define QM_D216(d) QM_D208(d), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define QM_S224 QM_S216 ", %108, %109, %110, %111"
#define QM_D224(d) QM_D216(d), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define QM_S232 QM_S224 ", %112, %113, %114, %115"
#define QM_D232(d) QM_D224(d), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define QM_S240 QM_S232 ", %116, %117, %118, %119"
#define QM_D240(d) QM_D232(d), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define QM_S248 QM_S240 ", %120, %121, %122, %123"
#define QM_D248(d) QM_D240(d), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define QM_S256 QM_S248 ", %124, %125, %126, %127"
#define QM_D256(d) QM_D248(d), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#define QM_WGMMA(N, A, B, P)                                                                     \
  template <>                                                                                    \
  struct Wgmma<N> {                                                                              \
    __device__ __forceinline__ static void add(float (&d)[N / 2], uint64_t a, uint64_t b,        \
                                               int add) {                                        \
      asm volatile(                                                                              \
          "{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\n"                                       \
          "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" QM_S##N                    \
          "}, %" #A ", %" #B ", p, 1, 1;\n}\n"                                                   \
          : QM_D##N(d)                                                                           \
          : "l"(a), "l"(b), "r"(add));                                                           \
    }                                                                                            \
  };

QM_WGMMA(8, 4, 5, 6)
QM_WGMMA(16, 8, 9, 10)
QM_WGMMA(24, 12, 13, 14)
QM_WGMMA(32, 16, 17, 18)
QM_WGMMA(40, 20, 21, 22)
QM_WGMMA(48, 24, 25, 26)
QM_WGMMA(56, 28, 29, 30)
QM_WGMMA(64, 32, 33, 34)
QM_WGMMA(72, 36, 37, 38)
QM_WGMMA(80, 40, 41, 42)
QM_WGMMA(88, 44, 45, 46)
QM_WGMMA(96, 48, 49, 50)
QM_WGMMA(104, 52, 53, 54)
QM_WGMMA(112, 56, 57, 58)
QM_WGMMA(120, 60, 61, 62)
QM_WGMMA(128, 64, 65, 66)
QM_WGMMA(136, 68, 69, 70)
QM_WGMMA(144, 72, 73, 74)
QM_WGMMA(152, 76, 77, 78)
QM_WGMMA(160, 80, 81, 82)
QM_WGMMA(168, 84, 85, 86)
QM_WGMMA(176, 88, 89, 90)
QM_WGMMA(184, 92, 93, 94)
QM_WGMMA(192, 96, 97, 98)
QM_WGMMA(200, 100, 101, 102)
QM_WGMMA(208, 104, 105, 106)
QM_WGMMA(216, 108, 109, 110)
QM_WGMMA(224, 112, 113, 114)
QM_WGMMA(232, 116, 117, 118)
QM_WGMMA(240, 120, 121, 122)
QM_WGMMA(248, 124, 125, 126)
QM_WGMMA(256, 128, 129, 130)

#undef QM_WGMMA
#undef QM_S8
#undef QM_D8
#undef QM_S16
#undef QM_D16
#undef QM_S24
#undef QM_D24
#undef QM_S32
#undef QM_D32
#undef QM_S40
#undef QM_D40
#undef QM_S48
#undef QM_D48
#undef QM_S56
#undef QM_D56
#undef QM_S64
#undef QM_D64
#undef QM_S72
#undef QM_D72
#undef QM_S80
#undef QM_D80
#undef QM_S88
#undef QM_D88
#undef QM_S96
#undef QM_D96
#undef QM_S104
#undef QM_D104
#undef QM_S112
#undef QM_D112
#undef QM_S120
#undef QM_D120
#undef QM_S128
#undef QM_D128
#undef QM_S136
#undef QM_D136
#undef QM_S144
#undef QM_D144
#undef QM_S152
#undef QM_D152
#undef QM_S160
#undef QM_D160
#undef QM_S168
#undef QM_D168
#undef QM_S176
#undef QM_D176
#undef QM_S184
#undef QM_D184
#undef QM_S192
#undef QM_D192
#undef QM_S200
#undef QM_D200
#undef QM_S208
#undef QM_D208
#undef QM_S216
#undef QM_D216
#undef QM_S224
#undef QM_D224
#undef QM_S232
#undef QM_D232
#undef QM_S240
#undef QM_D240
#undef QM_S248
#undef QM_D248
#undef QM_S256
#undef QM_D256

}  // namespace qm
