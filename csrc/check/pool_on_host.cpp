#include "pool_on_host.h"

#include <stdlib.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "cuda_on_host.h"

namespace minillm::on_host {
namespace {

std::mutex mutex;
std::map<void*, size_t> held;
uint64_t used = 0, reserved = 0, of_graphs = 0;

}  // namespace

void* take_of_pool(size_t bytes) {
    void* data = allocate(bytes);
    if (!data) return nullptr;
    const std::lock_guard<std::mutex> lock(mutex);
    held[data] = bytes;
    used += bytes;
    reserved = std::max(reserved, used);
    return data;
}

void give_to_pool(void* data) {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = held.find(data);
    if (found != held.end()) {
        used -= found->second;
        held.erase(found);
    }
    free(data);
}

std::shared_ptr<void> take_for_graph(size_t bytes) {
    void* data = allocate(bytes);
    if (!data) return nullptr;
    const std::lock_guard<std::mutex> lock(mutex);
    of_graphs += bytes;
    return {data, [bytes](void* memory) {
                const std::lock_guard<std::mutex> lock(mutex);
                of_graphs -= bytes;
                free(memory);
            }};
}

}  // namespace minillm::on_host

using namespace minillm::on_host;

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
    *pool = nullptr;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr which, void* value) {
    const std::lock_guard<std::mutex> lock(mutex);
    *static_cast<uint64_t*>(value) = which == cudaMemPoolAttrUsedMemCurrent ? used : reserved;
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t kept) {
    const std::lock_guard<std::mutex> lock(mutex);
    reserved = std::max<uint64_t>(used, std::min<uint64_t>(reserved, kept));
    return cudaSuccess;
}

cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
    const std::lock_guard<std::mutex> lock(mutex);
    *static_cast<uint64_t*>(value) = of_graphs;
    return cudaSuccess;
}

cudaError_t cudaDeviceGraphMemTrim(int) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaFree(void* data) {
    give_to_pool(data);
    return cudaSuccess;
}
