// Warpgroup matrix instructions exist on 9.0 alone: assembling this for 10.x fails.
extern "C" __global__ void hopper_only(float* out) {
  asm volatile("wgmma.fence.sync.aligned;\n");
  asm volatile("wgmma.commit_group.sync.aligned;\n");
  asm volatile("wgmma.wait_group.sync.aligned 0;\n");
  out[threadIdx.x] = 1.0f;
}
