// The epilogue of the row- and tensor-scaled FP8 GEMMs: y = round(s_x · (s_w · sum) + bias).
//
// A tree of CUTLASS's visitor nodes with two nodes of our own:
//
// * Broadcasts of scales. CUTLASS's nodes take a vector or one scalar by a bool stride, but when it
//   is a scalar they read it in their constructor, to know whether it is zero. That is before the
//   producer warp has waited for the kernel that computes the scale of x: with dependent launches
//   the value could be last call's, and its cache line would stay in L1. Ours have the same loads
//   in the epilogue and none in the constructor.
// * The last operation. bf16 and fp16 are both 16 bits wide and TMA only moves bits, so which of
//   them is a number at run time: one kernel, one compilation, for both outputs.
#pragma once
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "cutlass/numeric_conversion.h"

namespace quantmux {

namespace fusion = cutlass::epilogue::fusion;

// Node without the constructor's read of a scalar.
template <class Node>
struct Late : Node {
  using Params = typename Node::Params;
  using SharedStorage = typename Node::SharedStorage;
  CUTLASS_HOST_DEVICE Late() {}
  CUTLASS_HOST_DEVICE Late(Params const& given, SharedStorage const& storage)
      : Node(null_pointer(given), storage) {
    this->params = given;
    this->is_zero_ = false;
  }

 private:
  // A null pointer is what the constructor of Node does not read.
  CUTLASS_HOST_DEVICE static Params null_pointer(Params const& given) {
    Params other = given;
    if constexpr (requires_row<Params>(0)) {
      other.ptr_row = nullptr;
    } else {
      other.ptr_col = nullptr;
    }
    return other;
  }
  template <class P>
  CUTLASS_HOST_DEVICE static constexpr auto requires_row(int) -> decltype(P{}.ptr_row, true) {
    return true;
  }
  template <class P>
  CUTLASS_HOST_DEVICE static constexpr bool requires_row(long) {
    return false;
  }
};

// One value for each row of the tile, or one for all (a bool stride of 0).
template <class Tile>
using RowScale = Late<
    fusion::Sm90ColBroadcast<0, Tile, float, float, cute::Stride<bool, cute::_0, int64_t>>>;
template <class Tile>
using ColumnScale = Late<
    fusion::Sm90RowBroadcast<0, Tile, float, float, cute::Stride<cute::_0, bool, int64_t>>>;

// Which 16 bits the result has.
struct OutputType {
  int half = 0;  // 0 bf16, 1 fp16
};

template <class T>
struct ScaleAddRound {
  using Arguments = OutputType;
};

// round(scale · scaled + bias), in fp32 until the one rounding. Values travel as bf16_t whatever
// they are; only the bits matter from here on.
template <int N>
struct ScaleAddRound<cutlass::Array<float, N>> {
  using Arguments = OutputType;
  using Floats = cutlass::Array<float, N>;
  using Bits = cutlass::Array<cutlass::bfloat16_t, N>;
  CUTLASS_HOST_DEVICE Bits operator()(Floats const& scale, Floats const& scaled,
                                      Floats const& bias, OutputType const& output) const {
    cutlass::multiply_add<Floats> fma;
    Floats const y = fma(scale, scaled, bias);
    if (output.half) {
      cutlass::NumericArrayConverter<cutlass::half_t, float, N> round;
      auto const rounded = round(y);
      return reinterpret_cast<Bits const&>(rounded);
    }
    cutlass::NumericArrayConverter<cutlass::bfloat16_t, float, N> round;
    return round(y);
  }
};

}  // namespace quantmux
