// Hopper's (sm_90a) instructions that C++ has no words for, one function each: barriers in shared
// memory, the TMA unit, the warpgroup's matrix multiplication, registers, clusters, dependent
// launches. Plain PTX: no other library is needed, and a kernel on top of it compiles in seconds.
//
// Addresses in shared memory are 32-bit (`smem_address`). Every function that orders memory
// clobbers "memory", so that the compiler moves no load or store across it.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "wgmma.cuh"

namespace qm {

__device__ __forceinline__ uint32_t smem_address(void const* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- mbarrier: phases are counted by their parity, 0 first ------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// After barrier_init and before a cluster or block barrier: other CTAs and the TMA unit see it.
__device__ __forceinline__ void barrier_init_visible() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// One arrival, and the phase also waits for `bytes` from the TMA unit.
__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Arrives at the barrier of the same offset in CTA `rank` of the cluster (own rank: fine). Says only
// that this thread is done with what wgmma read: without `.release.cluster`, which would cost a
// fence of the whole GPU, it orders no ordinary stores for the other CTA.
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ bool barrier_done(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// try_wait sleeps in hardware for a while: this does not spin hot.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  while (!barrier_done(barrier, parity)) {
  }
}

// The same, acquiring what threads of other CTAs of the cluster wrote before they arrived.
__device__ __forceinline__ void barrier_wait_cluster(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// ---- TMA --------------------------------------------------------------------------------------

// For the L2: weights that are read once may go first, activations that all tiles read go last.
enum : uint64_t {
  kEvictNormal = 0x1000000000000000ull,
  kEvictFirst = 0x12F0000000000000ull,
  kEvictLast = 0x14F0000000000000ull,
};

__device__ __forceinline__ void tensor_map_prefetch(CUtensorMap const* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of `map` at (column, row) to shared memory; its bytes complete at `barrier`.
__device__ __forceinline__ void tma_load(uint32_t to, CUtensorMap const* map, int column, int row,
                                         uint32_t barrier, uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "l"(hint)
      : "memory");
}

// The same to every CTA of the cluster in `mask`: same offsets for data and barrier in each.
__device__ __forceinline__ void tma_load_multicast(uint32_t to, CUtensorMap const* map, int column,
                                                   int row, uint32_t barrier, uint16_t mask,
                                                   uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(to),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(mask), "l"(hint)
      : "memory");
}

// `bytes` in a row, without a tensor map: both addresses and the size are multiples of 16.
__device__ __forceinline__ void bulk_load(uint32_t to, void const* from, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// A box of shared memory to `map`; what lies outside of the tensor is not written.
__device__ __forceinline__ void tma_store(CUtensorMap const* map, uint32_t from, int column,
                                          int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
                   map),
               "r"(column), "r"(row), "r"(from)
               : "memory");
}

__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until at most `kOpen` groups of stores still read their shared memory.
template <int kOpen>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kOpen) : "memory");
}

// Between ordinary accesses of shared memory and the TMA unit's or wgmma's to the same bytes.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- cp.async: four bytes, or zero where !valid -------------------------------------------------

__device__ __forceinline__ void copy4_async(uint32_t to, void const* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}

// This thread's one arrival, made when its cp.async so far have landed. Counted in barrier_init.
__device__ __forceinline__ void copy_async_arrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// ---- wgmma ------------------------------------------------------------------------------------

// Descriptor of a tile [rows, 128 bytes] under the 128-byte swizzle, K-contiguous: groups of eight
// rows lie 1024 bytes apart, and the tile begins at a multiple of 1024. The next 32 bytes of K
// are `descriptor + 2` (16-byte units): the hardware swizzles the address, not the offset.
__device__ __forceinline__ uint64_t descriptor_128b(uint32_t address) {
  uint64_t const swizzle_128b = 1ull << 62, eight_rows = (1024ull >> 4) << 32, one = 1ull << 16;
  return swizzle_128b | eight_rows | one | ((address & 0x3FFFF) >> 4);
}

// Before the first wgmma: orders earlier register and shared-memory accesses.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kOpen>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}

// Keeps the compiler from touching accumulators while a wgmma may still write them.
template <int kCount>
__device__ __forceinline__ void wgmma_hold(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// ---- registers, named barriers, clusters, dependent launches -----------------------------------

template <int kRegisters>
__device__ __forceinline__ void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// One lane of a whole warp, always the same one. The compiler knows that it is one, and so issues
// TMA instructions without a loop over lanes.
__device__ __forceinline__ bool elect_one() {
  uint32_t chosen;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(chosen));
  return chosen != 0;
}

// Barrier `id` (1 to 15; 0 is __syncthreads) of `threads` threads, whole warps.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts among the `threads` of the barrier, and does not wait.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

// The same for threads that only wait for each other: nothing written before is made visible, and
// no store to global memory is waited for (the fence of cluster_arrive waits for all of them).
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Address of the same shared memory in CTA `rank`, for cluster_load4.
__device__ __forceinline__ uint32_t cluster_address(uint32_t address, uint32_t rank) {
  uint32_t remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

__device__ __forceinline__ float4 cluster_load4(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// All kernels before this one in the stream have ended, and what they wrote is visible. Without
// a dependent launch this does nothing.
__device__ __forceinline__ void dependency_wait() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// The kernel after this one may start; only after dependency_wait (docs/decisions/0010).
__device__ __forceinline__ void dependency_launch() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// ---- host -------------------------------------------------------------------------------------

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 cuuint64_t const*, cuuint64_t const*, cuuint32_t const*,
                                 cuuint32_t const*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's encoder, looked up once, so that nothing is linked with libcuda; null without one.
inline EncodeTiled encode_tiled() {
  static EncodeTiled const found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    cudaError_t const error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &result);
    bool const ok = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<EncodeTiled>(entry) : nullptr;
  }();
  return found;
}

// A map of bytes [rows, columns] (FP8, columns contiguous, `stride` bytes between rows, multiple
// of 16) in boxes of [box_rows <= 256, 128] under the 128-byte swizzle; reads zeros outside.
inline bool encode_fp8(CUtensorMap* map, void const* base, int64_t rows, int64_t columns,
                       int64_t stride, int box_rows) {
  EncodeTiled const encode = encode_tiled();
  if (encode == nullptr) return false;
  cuuint64_t const extents[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  cuuint64_t const strides[1] = {static_cast<cuuint64_t>(stride)};
  cuuint32_t const box[2] = {128, static_cast<cuuint32_t>(box_rows)};
  cuuint32_t const steps[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(base), extents, strides,
                box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace qm
