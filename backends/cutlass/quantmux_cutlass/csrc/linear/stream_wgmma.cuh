// Around the warp-group matrix instruction (wgmma.cuh): descriptors of operands, waits.
//
// Both operands lie as the TMA unit's 128-byte swizzle leaves them: rows of 128 bytes, eight rows
// to an atom of 1024 bytes, 16-byte piece c of row r at place c ^ (r % 8). A descriptor names the
// first row; a step of 32 in K inside of the 128 bytes adds 32 bytes to the address, since the
// swizzle is a function of address bits.
//
// Thread t of the warp group holds register 4j + 2h + c of D at
//   row    16 (t / 32) + (t % 32) / 4 + 8 h
//   column 8 j + 2 (t % 4) + c
#pragma once
#include <cstdint>

#include "wgmma.cuh"

namespace stream {

// Address / 16 in bits 0-13, leading offset (unused here) in 16-29, 1024 bytes between atoms of
// eight rows in 32-45, and 1 = "128-byte swizzle" in 62-63.
__device__ __forceinline__ uint64_t descriptor(uint32_t address) {
  return (static_cast<uint64_t>(address & 0x3FFFFu) >> 4) | (uint64_t{1} << 16) |
         (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 62);
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most `Left` committed groups are under way.
template <int Left>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}

// Keeps the compiler from moving reads and writes of accumulators across a wait: to it they are
// ordinary registers.
template <int Count>
__device__ __forceinline__ void pin(float (&d)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

}  // namespace stream
