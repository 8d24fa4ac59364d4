// Planning and launching a kernel of CUTLASS's CollectiveBuilder behind the C ABI.
//
// GemmUniversalAdapter is not used to run: on every call it would set function attributes, ask for
// a workspace and take the thread's last CUDA error, which may be somebody else's. Here attributes
// are set once per plan, and a call is three TMA descriptors and one cudaLaunchKernelExC.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "cutlass/device_kernel.h"
#include "cutlass/kernel_hardware_info.h"
#include "on_device.cuh"

namespace quantmux {

// How a kernel is started: everything but its parameters. `attributes` must outlive the result.
template <class Kernel>
cudaLaunchConfig_t launch_config(dim3 grid, cudaStream_t stream, bool pdl,
                                 cudaLaunchAttribute (&attributes)[2]) {
  using Cluster = typename Kernel::ClusterShape;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = Kernel::get_block_shape();
  config.dynamicSmemBytes = Kernel::SharedStorageSize;
  config.stream = stream;
  config.attrs = attributes;
  if constexpr (cute::size(Cluster{}) > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = cute::size<0>(Cluster{});
    attributes[config.numAttrs].val.clusterDim.y = cute::size<1>(Cluster{});
    attributes[config.numAttrs].val.clusterDim.z = 1;
    ++config.numAttrs;
  }
  if (pdl) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
    ++config.numAttrs;
  }
  return config;
}

// Once per plan, on the plan's device: shared memory, and how many clusters fit at the same time.
// A grid of more clusters than that would leave some to a second wave that does not know of the
// first (GPUs have groups of multiprocessors with an odd count).
template <class Kernel>
int prepare_kernel(QmProblem const& problem, cutlass::KernelHardwareInfo& hardware) {
  OnDevice const on(problem.device);
  if (on.status() != cudaSuccess) return cuda_status(on.status());
  void const* const entry = reinterpret_cast<void const*>(cutlass::device_kernel<Kernel>);
  cudaError_t error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           Kernel::SharedStorageSize);
  if (error != cudaSuccess) return cuda_status(error);
  hardware = {};
  hardware.device_id = problem.device;
  hardware.sm_count = problem.sms;
  using Cluster = typename Kernel::ClusterShape;
  constexpr int kCluster = cute::size(Cluster{});
  if constexpr (kCluster > 1) {
    cudaLaunchAttribute attributes[2];
    auto config = launch_config<Kernel>(
        dim3(cute::size<0>(Cluster{}), cute::size<1>(Cluster{}), 1), nullptr, false, attributes);
    int clusters = 0;
    error = cudaOccupancyMaxActiveClusters(&clusters, entry, &config);
    if (error != cudaSuccess) return cuda_status(error);
    hardware.max_active_clusters = std::min(clusters, problem.sms / kCluster);
  }
  return QM_OK;
}

template <class Kernel>
int launch(typename Kernel::Params& params, int device, bool pdl, void* stream) {
  OnDevice const on(device);
  if (on.status() != cudaSuccess) return cuda_status(on.status());
  cudaLaunchAttribute attributes[2];
  auto const config = launch_config<Kernel>(Kernel::get_grid_shape(params),
                                            static_cast<cudaStream_t>(stream), pdl, attributes);
  void* arguments[] = {&params};
  return cuda_status(cudaLaunchKernelExC(
      &config, reinterpret_cast<void const*>(cutlass::device_kernel<Kernel>), arguments));
}

// CUTLASS only prints where the driver refuses a descriptor, and goes on with one of zeros.
template <class Descriptor>
bool encoded(Descriptor const* descriptor) {
  auto const* const words = reinterpret_cast<uint64_t const*>(descriptor);
  return std::any_of(words, words + sizeof(Descriptor) / 8, [](uint64_t word) { return word != 0; });
}

}  // namespace quantmux
