// Preparing and launching a kernel of CUTLASS's CollectiveBuilder behind the C ABI.
//
// GemmUniversalAdapter is not used to run: on every call it would set function attributes, ask for
// a workspace, take the thread's last CUDA error, which may be somebody else's, and fold what it
// finds into "internal error". Here attributes are set once per plan, and a call is its TMA
// descriptors and one cudaLaunchKernelExC, whose own return value is what is returned.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "abi.cuh"
#include "cutlass/device_kernel.h"
#include "linear/on_device.cuh"

namespace quantmux {

// Once per plan, on the plan's device: shared memory. Also finds out a GPU that this library has
// no code for.
template <class Kernel>
int prepare_kernel(int device) {
  OnDevice const on(device);
  if (on.status() != cudaSuccess) return cuda_status(on.status());
  return cuda_status(cudaFuncSetAttribute(
      reinterpret_cast<void const*>(&cutlass::device_kernel<Kernel>),
      cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::SharedStorageSize));
}

template <class Kernel>
int launch(typename Kernel::Params& params, int device, bool overlap, void* stream) {
  using Cluster = typename Kernel::ClusterShape;
  OnDevice const on(device);
  if (on.status() != cudaSuccess) return cuda_status(on.status());
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = Kernel::get_grid_shape(params);
  config.blockDim = Kernel::get_block_shape();
  config.dynamicSmemBytes = Kernel::SharedStorageSize;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  if constexpr (cute::size(Cluster{}) > 1) {
    auto& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = cute::size<0>(Cluster{});
    cluster.val.clusterDim.y = cute::size<1>(Cluster{});
    cluster.val.clusterDim.z = 1;
  }
  if (overlap) {
    auto& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  void* values[] = {&params};
  return cuda_status(cudaLaunchKernelExC(
      &config, reinterpret_cast<void const*>(&cutlass::device_kernel<Kernel>), values));
}

// CUTLASS only prints where the driver refuses a descriptor, and goes on with one of zeros.
template <class Tma>
bool encoded(Tma const& tma) {
  auto const* const words = reinterpret_cast<uint64_t const*>(tma.get_tma_descriptor());
  size_t const count = sizeof(cute::TmaDescriptor) / sizeof(uint64_t);
  return std::any_of(words, words + count, [](uint64_t word) { return word != 0; });
}

}  // namespace quantmux
