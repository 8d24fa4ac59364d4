// The device of a launch, for as long as the launch takes.
#pragma once
#include <cuda_runtime.h>

namespace quantmux {

// The CUDA runtime in a library is its own; it shares the thread's current device with others.
// Asking is cheap, so it is set only if it differs, and set back.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    status_ = cudaGetDevice(&before_);
    if (status_ == cudaSuccess && before_ != device) {
      status_ = cudaSetDevice(device);
      changed_ = status_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(OnDevice const&) = delete;
  OnDevice& operator=(OnDevice const&) = delete;
  cudaError_t status() const { return status_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t status_ = cudaSuccess;
};

// The status of the C ABI for an error of a call. The error is reported by us, so it must not be
// met again by whoever next asks this runtime for its last one.
inline int cuda_status(cudaError_t error) {
  if (error == cudaSuccess) return QM_OK;
  cudaGetLastError();
  return static_cast<int>(QM_CUDA) + static_cast<int>(error);
}

}  // namespace quantmux
