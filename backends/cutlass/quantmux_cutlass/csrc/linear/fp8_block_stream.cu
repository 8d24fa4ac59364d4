// FP8 linear for few tokens, 1x128 by 128x128 scales: the library.
#include "abi.cuh"

#define QM_BLOCK 1
#include "stream_library.cuh"
