// FP8 linear for few tokens, one scale a row or a tensor: the library.
#include "abi.cuh"

#define QM_BLOCK 0
#include "stream_library.cuh"
