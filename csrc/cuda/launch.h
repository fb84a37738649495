// What every kernel file needs: launching on the caller's stream, errors as exceptions, scratch
// memory. The same sources are compiled as plain C++ for a device that is played by the host
// (check/cuda_on_host.h), so <<<>>> and `extern __shared__` stand here alone.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef MINILLM_CUDA_ON_HOST
#include "../check/cuda_on_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#endif

#include "device_memory.h"

namespace minillm {

// The stream of the call that this thread is in; its arrays bring it along (array.h).
cudaStream_t current_stream();
void set_current_stream(cudaStream_t stream);

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;
// Bytes of dynamic shared memory up to which a kernel need not be told: the 48 KiB that it may have
// untold hold its static arrays as well.
constexpr size_t most_untold_shared = 24 * 1024;

__host__ __device__ constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The device has not memory enough: a MemoryError in Python, for which a run saves.
class OutOfMemory : public std::bad_alloc {
 public:
    explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
    const char* what() const noexcept override { return text_.c_str(); }

 private:
    std::string text_;
};

inline void check(cudaError_t code, const char* what) {
    if (code == cudaSuccess) return;
#ifndef MINILLM_CUDA_ON_HOST
    cudaGetLastError();  // forgotten here, or the next launch would be blamed for it
#endif
    const std::string text =
        std::string(what) + ": " + cudaGetErrorName(code) + ", " + cudaGetErrorString(code);
    if (code == cudaErrorMemoryAllocation) throw OutOfMemory(text);
    throw std::runtime_error(text);
}

// Memory shared by a block, as much as its launch asked for; 16-byte aligned.
#ifdef MINILLM_CUDA_ON_HOST
template <class T>
T* dynamic_shared() {
    return reinterpret_cast<T*>(on_host::shared_memory());
}
#elif defined(__CUDACC__)
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char minillm_shared[];
    return reinterpret_cast<T*>(minillm_shared);
}
#endif

#if defined(MINILLM_CUDA_ON_HOST) || defined(__CUDACC__)
// kernel<<<grid, block, shared>>>(values...) on the current stream; a grid of no block is none.
template <class... Parameters, class... Values>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Values... values) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef MINILLM_CUDA_ON_HOST
    check(on_host::run(current_stream(), grid, block, shared,
                       [=] { kernel(static_cast<Parameters>(values)...); }),
          "launch");
#else
    if (shared > most_untold_shared)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared)),
              "launch: shared memory");
    // clang-format off
    kernel<<<grid, block, shared, current_stream()>>>(static_cast<Parameters>(values)...);
    // clang-format on
    check(cudaGetLastError(), "launch");
#endif
}
#endif

// Device memory for the kernels of one call: allocated and freed in the order of its stream.
template <class T>
class Scratch {
 public:
    explicit Scratch(size_t count) : stream_(current_stream()) {
        if (count)
            data_ = static_cast<T*>(take_memory(count * sizeof(T), stream_, "scratch memory"));
    }
    ~Scratch() { give_memory(data_, stream_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    T* data() const { return data_; }

 private:
    cudaStream_t stream_;
    T* data_ = nullptr;
};

}  // namespace minillm
