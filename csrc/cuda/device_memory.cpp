#include "device_memory.h"

#include <mutex>
#include <utility>

#include "launch.h"

namespace minillm {
namespace {

constexpr uint64_t kept =
    1 << 30;  // a loss takes half of that for its logits, a wide layer as much

std::mutex mutex;
Room& room = *new Room;  // which may belong to an interpreter that ends before the process
bool bounded = false;

void forget_error() {
#ifndef MINILLM_CUDA_ON_HOST
    cudaGetLastError();
#endif
}

int current_device() {
    int device = 0;
    check(cudaGetDevice(&device), "memory");
    return device;
}

cudaMemPool_t pool_of(int device) {
    cudaMemPool_t pool;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "memory");
    return pool;
}

// What kernels took for a while stays with the process: by default the system takes it back
// whenever the host waits, and every step would ask for it anew.
void keep_memory() {
    static thread_local int known = -1;
    const int device = current_device();
    if (device == known) return;
    uint64_t threshold = kept;
    check(cudaMemPoolSetAttribute(pool_of(device), cudaMemPoolAttrReleaseThreshold, &threshold),
          "memory");
    known = device;
}

uint64_t attribute(cudaMemPoolAttr which) {
    uint64_t value = 0;
    check(cudaMemPoolGetAttribute(pool_of(current_device()), which, &value), "memory");
    return value;
}

uint64_t of_graphs(cudaGraphMemAttributeType which) {
    uint64_t value = 0;
    check(cudaDeviceGetGraphMemAttribute(current_device(), which, &value), "memory");
    return value;
}

// `untold`: what holds where that is not told, as of the stream on which all wait while another is
// captured.
bool is_captured(cudaStream_t stream, bool untold = true) {
    cudaStreamCaptureStatus status;
    const bool told = cudaStreamIsCapturing(stream, &status) == cudaSuccess;
    forget_error();
    return told ? status != cudaStreamCaptureStatusNone : untold;
}

std::pair<Room, bool> asked() {
    const std::lock_guard<std::mutex> lock(mutex);
    return {room, bounded};
}

bool grows(size_t bytes) {
    return attribute(cudaMemPoolAttrUsedMemCurrent) + bytes >
           attribute(cudaMemPoolAttrReservedMemCurrent);
}

}  // namespace

void* take_memory(size_t bytes, cudaStream_t stream, const char* what) {
    const auto [ask, watched] = asked();
    if (ask && watched && !is_captured(stream) && grows(bytes)) ask(bytes, 0);
    keep_memory();
    void* data = nullptr;
    for (int refused = 1;; refused++) {
        const cudaError_t code = cudaMallocAsync(&data, bytes, stream);
        if (code != cudaErrorMemoryAllocation || !ask || refused > 2 || is_captured(stream)) {
            check(code, what);
            return data;
        }
        forget_error();
        ask(bytes, refused);
    }
}

void give_memory(void* data, cudaStream_t stream) noexcept {
    if (!data || cudaFreeAsync(data, stream) == cudaSuccess) return;
    forget_error();
    if (is_captured(stream, false)) return;  // by one that is spoilt: the memory never came to be
    cudaFree(data);                          // the stream is gone
    forget_error();
}

PoolBytes pool_bytes() {
    return {attribute(cudaMemPoolAttrUsedMemCurrent) + of_graphs(cudaGraphMemAttrUsedMemCurrent),
            attribute(cudaMemPoolAttrReservedMemCurrent) +
                of_graphs(cudaGraphMemAttrReservedMemCurrent)};
}

void trim_pool() {
    check(cudaDeviceSynchronize(), "memory");
    check(cudaMemPoolTrimTo(pool_of(current_device()), 0), "memory");
    check(cudaDeviceGraphMemTrim(current_device()), "memory");
}

void ask_for_room(Room wanted, bool watched) {
    const std::lock_guard<std::mutex> lock(mutex);
    room = std::move(wanted);
    bounded = watched;
}

}  // namespace minillm
