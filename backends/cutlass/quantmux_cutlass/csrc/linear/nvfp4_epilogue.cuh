// Two nodes of the epilogue's tree, which gives y = round(alpha * sum + bias).
//
// GlobalScales, a leaf: alpha = RN(g_x * g_w), from two scalars in device memory.
// NVFP4 has two levels of scales. Those of 16 values are multiplied in by the tensor core; one
// fp32 multiplier for all of x and one for all of w are left for the epilogue. Both live on the
// device: x's is written by the quantizer that ran just before, so its value must not pass through
// the host, and a launch that only multiplies two numbers is not worth two microseconds.
//
// CUTLASS has a leaf for products of scalars, Sm90ScalarBroadcast<float, ..., 2>. It is not used
// because of *when* it reads: in its constructor, which the kernel runs before it waits for the
// kernel in front of it (griddepcontrol.wait is executed by the loading warp alone). Under
// programmatic dependent launch that is a read of g_x that may still be unwritten. Its form for
// batches reads later, but on sm100 the epilogue's warps start it while the loading warp may still
// be waiting. So this leaf waits itself, in the threads that read: the instruction costs nothing
// once the grid in front has ended, and these warps are idle until the first tile is multiplied.
//
// ScaleAddRound, the root: bf16 and fp16 are both 16 bits wide and TMA only moves bits, so which of
// them is a number at run time: one kernel, one compilation, for both.
#pragma once
#include "cutlass/arch/grid_dependency_control.h"
#include "cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp"
#include "cutlass/numeric_conversion.h"

namespace quantmux {

namespace tree = cutlass::epilogue::fusion;

struct GlobalScales {
  struct SharedStorage {};
  struct Arguments {
    float const* x = nullptr;
    float const* w = nullptr;
  };
  using Params = Arguments;

  template <class Shape>
  static constexpr Params to_underlying_arguments(Shape const&, Arguments const& args, void*) {
    return args;
  }
  template <class Shape>
  static bool can_implement(Shape const&, Arguments const&) { return true; }
  template <class Shape>
  static size_t get_workspace_size(Shape const&, Arguments const&) { return 0; }
  template <class Shape>
  static cutlass::Status initialize_workspace(Shape const&, Arguments const&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }

  CUTLASS_HOST_DEVICE GlobalScales() {}
  CUTLASS_HOST_DEVICE GlobalScales(Params const& p, SharedStorage const&) : params(&p) {}
  Params const* params = nullptr;

  CUTLASS_DEVICE bool is_producer_load_needed() const { return false; }
  CUTLASS_DEVICE bool is_C_load_needed() const { return false; }

  template <class... Args>
  CUTLASS_DEVICE auto get_producer_load_callbacks(tree::ProducerLoadArgs<Args...> const&) {
    return tree::EmptyProducerLoadCallbacks{};
  }

  struct Store : tree::EmptyConsumerStoreCallbacks {
    float alpha;
    CUTLASS_DEVICE explicit Store(float value) : alpha(value) {}

    template <class Accumulator, int kSize>
    CUTLASS_DEVICE cutlass::Array<float, kSize> visit(cutlass::Array<Accumulator, kSize> const&,
                                                      int, int, int) {
      cutlass::Array<float, kSize> all;
      all.fill(alpha);
      return all;
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(tree::ConsumerStoreArgs<Args...> const&) {
    cutlass::arch::wait_on_dependent_grids();
    // one rounding, and no contraction with the multiply-add that uses it: alpha is defined so.
    // volatile: the compiler must not take this for memory that never changes during the kernel
    // and read it ahead of the wait.
    float const g_x = *static_cast<float const volatile*>(params->x);
    return Store(__fmul_rn(g_x, *params->w));
  }
};

// Which 16 bits the result has.
struct OutputType {
  int half = 0;  // 0 bf16, 1 fp16
};

template <class T>
struct ScaleAddRound {
  using Arguments = OutputType;
};

// round(alpha * sum + bias), in fp32 until the one rounding. Values travel as bf16_t whatever they
// are; only the bits matter from here on.
template <int kSize>
struct ScaleAddRound<cutlass::Array<float, kSize>> {
  using Arguments = OutputType;
  using Floats = cutlass::Array<float, kSize>;
  using Bits = cutlass::Array<cutlass::bfloat16_t, kSize>;
  CUTLASS_HOST_DEVICE Bits operator()(Floats const& alpha, Floats const& sum, Floats const& bias,
                                      OutputType const& output) const {
    cutlass::multiply_add<Floats> fused;
    Floats const y = fused(alpha, sum, bias);
    if (output.half) {
      cutlass::NumericArrayConverter<cutlass::half_t, float, kSize> round;
      auto const rounded = round(y);
      return reinterpret_cast<Bits const&>(rounded);
    }
    cutlass::NumericArrayConverter<cutlass::bfloat16_t, float, kSize> round;
    return round(y);
  }
};

}  // namespace quantmux
