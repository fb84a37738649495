// Memory of the device for kernels, taken of CUDA's own pool in the order of a stream.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>

#ifdef MINILLM_CUDA_ON_HOST
#include "../check/cuda_on_host.h"
#else
#include <cuda_runtime.h>
#endif

namespace minillm {

// While `stream` is captured, the memory belongs to the graph. Throws OutOfMemory.
void* take_memory(size_t bytes, cudaStream_t stream, const char* what);
void give_memory(void* data, cudaStream_t stream) noexcept;

// Of the current device: what kernels use, and what the pool has taken for them, graphs included.
struct PoolBytes {
    uint64_t used, reserved;
};
PoolBytes pool_bytes();

// Gives back what no kernel uses, of the current device. Waits for it.
void trim_pool();

// `room(bytes, refused)` is asked before the pool takes more of the device if `bounded`, with 0,
// and in any case once the device had not so many bytes, with 1: it may make room. Where that did
// not help it is asked with 2. It throws what the caller is to be told.
using Room = std::function<void(size_t bytes, int refused)>;
void ask_for_room(Room room, bool bounded);

}  // namespace minillm
