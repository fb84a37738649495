// CUDA's words for kernels that run on the host, so that their logic, their barriers and their
// memory accesses are tested on machines without a GPU. The threads of a block are fibers: one runs
// until it meets a barrier or a warp's operation, then another that may; which warp, and in which
// order its lanes, is drawn from a seed, so that a barrier that is missing shows. Blocks run one
// after another, in a drawn order.
// Speed is not what this is for, nor are the memory model's weaker orders seen.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <type_traits>

#include "capture_on_host.h"
#include "pool_on_host.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static  // one block runs at a time; the sanitizer guards its ends
#else
#define __shared__ static thread_local  // filled with garbage before every block
#endif
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace minillm::on_host {

extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

// Runs `body` for every thread of every block, in the order of a stream. Throws std::runtime_error
// where they wait forever.
cudaError_t run(cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                std::function<void()> body);
void set_order(uint64_t seed);   // of blocks and threads, from now on; 0: as they are numbered
unsigned char* shared_memory();  // of this block, garbage at first
void* allocate(size_t bytes);    // full of garbage; null for more than the device has
void fill_with_garbage(void* data, size_t bytes);
void set_most_bytes(size_t bytes);  // of one allocation, from now on

// Fails for an address that lies in shared memory or on a thread's stack, or is not aligned.
void require_global(const char* what, const void* address, size_t alignment);
// And for one that does not lie in shared memory, or is not aligned.
void require_shared(const char* what, const void* address, size_t alignment);
// Fails once the kernel is done if it has changed what lies there, which it read as constant.
void require_unchanged(const void* address, size_t bytes);

void barrier();  // of the block
// What the lanes of `mask` gave, by lane, valid until the warp's next exchange. `what` tells the
// operations apart: lanes that wait in different ones have diverged, which is an error.
struct Slot {
    alignas(16) unsigned char bytes[64];
};
const Slot* exchange(unsigned mask, const char* what, const void* own, size_t bytes);
unsigned lane();

template <class T>
T of(const Slot& slot) {
    static_assert(sizeof(T) <= sizeof(Slot) && std::is_trivially_copyable_v<T>);
    T value;
    memcpy(&value, slot.bytes, sizeof(T));
    return value;
}

}  // namespace minillm::on_host

#define threadIdx (minillm::on_host::thread_index)
#define blockIdx (minillm::on_host::block_index)
#define blockDim (minillm::on_host::block_size)
#define gridDim (minillm::on_host::grid_size)
constexpr int warpSize = 32;

inline cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
    return minillm::on_host::allocate_async(data, bytes, stream);
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
    return minillm::on_host::free_async(data, stream);
}
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
    return minillm::on_host::perform(stream, [=] {
        if (bytes) memcpy(to, from, bytes);
    });
}
inline cudaError_t cudaMemsetAsync(void* data, int byte, size_t bytes, cudaStream_t stream) {
    return minillm::on_host::perform(stream, [=] {
        if (bytes) memset(data, byte, bytes);
    });
}

inline void __syncthreads() { minillm::on_host::barrier(); }
inline void __threadfence() {}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    minillm::on_host::exchange(mask, "__syncwarp", nullptr, 0);
}

// `source` is taken within groups of `width` lanes; from outside of it the own value comes back.
template <class T>
T shuffle_on_host(unsigned mask, const char* what, T value, int source, bool inside) {
    const auto* slots = minillm::on_host::exchange(mask, what, &value, sizeof(T));
    return inside ? minillm::on_host::of<T>(slots[source]) : value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const int lane = minillm::on_host::lane(), first = lane / width * width;
    return shuffle_on_host(mask, "__shfl_sync", value, first + (from & (width - 1)), true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    const int lane = minillm::on_host::lane(), source = lane ^ with;
    return shuffle_on_host(mask, "__shfl_xor_sync", value, source, source / width <= lane / width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = minillm::on_host::lane(), source = lane + static_cast<int>(by);
    return shuffle_on_host(mask, "__shfl_down_sync", value, source, source / width == lane / width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = minillm::on_host::lane(), source = lane - static_cast<int>(by);
    return shuffle_on_host(mask, "__shfl_up_sync", value, source, source >= lane / width * width);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const bool own = predicate != 0;
    const auto* slots = minillm::on_host::exchange(mask, "__ballot_sync", &own, sizeof own);
    unsigned found = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1u && slots[lane].bytes[0]) found |= 1u << lane;
    return found;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    const auto* slots = minillm::on_host::exchange(mask, "__match_any_sync", &value, sizeof(T));
    unsigned found = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1u && minillm::on_host::of<T>(slots[lane]) == value) found |= 1u << lane;
    return found;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

#include "cuda_numbers_on_host.h"
