"""Conventions of FlashInfer against ours, translated in one place, each with its inverse.

One file an idea, so that a kernel's digest covers what it uses and no more:

* `global_scales`: multipliers g (ours) against encode scales G = RN(1 / g);
* `scale_bytes`: scales of NVFP4 as e4m3 (ours) against bytes, in 2-D or as one row;
* `matrices`: padded with zeros and cut back; [K, N] column-major views; addresses;
* `trtllm`: the row order of weights, and of their scales, that trtllm-gen kernels read;
* `fp8_blocks`: scales of 1x128 groups as [K / 128, R4(M)], and of 128x128 blocks.

What differs by kernel only (which alignment, which layout of scales) stands in its capability.
"""
