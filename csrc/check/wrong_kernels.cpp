// Kernels with the mistakes that running on the host has to show.
#include "wrong_kernels.h"

#include <stdexcept>

#include "../cuda/launch.h"
#include "../cuda/mma.h"

namespace minillm::on_host {
namespace {

constexpr int threads = 64;

// Each thread takes what its opposite has put down.
template <bool with_barrier>
__global__ void reverse(const int* from, int* to) {
    int* shared = dynamic_shared<int>();
    shared[threadIdx.x] = from[threadIdx.x];
    if (with_barrier) __syncthreads();
    to[threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

// One number of a warp after the other; without the second barrier a slow warp reads the next.
template <bool with_barrier>
__global__ void from_first_warp(const int* from, int* to) {
    __shared__ int shared;
    for (int i = 0; i < threads; i++) {
        if (threadIdx.x == 0) shared = from[i];
        __syncthreads();
        to[threadIdx.x] = threadIdx.x == static_cast<unsigned>(i) ? shared : to[threadIdx.x];
        if (with_barrier) __syncthreads();
    }
}

__global__ void barrier_for_some(const int*, int*) {
    if (threadIdx.x < 40) __syncthreads();
}

__global__ void lanes_in_two_operations(const int* from, int* to) {
    const int value = from[threadIdx.x];
    to[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(all_lanes, value, 1)
                                      : __shfl_down_sync(all_lanes, value, 1);
}

__global__ void lane_outside_its_mask(const int* from, int* to) {
    to[threadIdx.x] = __shfl_sync(0xffffu, from[threadIdx.x], 0);
}

__global__ void reads_what_nobody_wrote(const int*, int* to) {
    to[threadIdx.x] = dynamic_shared<int>()[threadIdx.x];
}

__global__ void reads_static_memory(const int*, int* to) {
    __shared__ int shared[threads];
    to[threadIdx.x] = shared[threadIdx.x];
    shared[threadIdx.x] = 7;
}

__global__ void reads_shared_memory_as_global(const int* from, int* to) {
    int* shared = dynamic_shared<int>();
    shared[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = __ldg(shared + threadIdx.x);
}

__global__ void reads_static_memory_as_global(const int* from, int* to) {
    __shared__ int shared[threads];
    shared[threadIdx.x] = from[threadIdx.x];
    to[threadIdx.x] = __ldg(shared + threadIdx.x);
}

__global__ void reads_its_own_memory_as_global(const int* from, int* to) {
    const int own = from[threadIdx.x];
    to[threadIdx.x] = __ldg(&own);
}

__global__ void reads_four_at_an_odd_place(const int* from, int* to) {
    to[threadIdx.x] = __ldg(reinterpret_cast<const int4*>(from + 1)).x;
}

__global__ void changes_what_it_read_as_constant(const int*, int* to) {
    to[threadIdx.x] = __ldg(to + threadIdx.x) + 1;
}

__global__ void loads_matrices_of_global_memory(const int* from, int* to) {
    uint32_t registers[4];
    device::load_matrices(registers, from + threadIdx.x / 4 * 4);
    to[threadIdx.x] = static_cast<int>(registers[0]);
}

__global__ void copies_to_an_odd_place(const int* from, int*) {
    device::copy_async(dynamic_shared<int>() + 1, from);
}

}  // namespace

std::vector<int> run_wrong_kernel(const std::string& name) {
    alignas(16) int from[threads], to[threads] = {};
    for (int i = 0; i < threads; i++) from[i] = i;
    const auto run = [&](void (*kernel)(const int*, int*), dim3 grid = dim3(1),
                         size_t shared = sizeof(int)* threads) {
        launch(kernel, grid, dim3(threads), shared, from, to);
        return std::vector<int>(to, to + threads);
    };
    if (name == "reverse") return run(reverse<true>);
    if (name == "reverse without barrier") return run(reverse<false>);
    if (name == "in turn") return run(from_first_warp<true>);
    if (name == "in turn without barrier") return run(from_first_warp<false>);
    if (name == "barrier for some") return run(barrier_for_some);
    if (name == "lanes in two operations") return run(lanes_in_two_operations);
    if (name == "lane outside its mask") return run(lane_outside_its_mask);
    if (name == "reads what nobody wrote") return run(reads_what_nobody_wrote);
    if (name == "reads static memory") return run(reads_static_memory);
    if (name == "shared memory as global") return run(reads_shared_memory_as_global);
    if (name == "static memory as global") return run(reads_static_memory_as_global);
    if (name == "own memory as global") return run(reads_its_own_memory_as_global);
    if (name == "four at an odd place") return run(reads_four_at_an_odd_place);
    if (name == "constants that change") return run(changes_what_it_read_as_constant);
    if (name == "matrices of global memory") return run(loads_matrices_of_global_memory);
    if (name == "a copy to an odd place") return run(copies_to_an_odd_place);
    if (name == "shared memory of 100 KB") return run(reverse<true>, dim3(1), 100 * 1024);
    if (name == "a grid of 65536 rows") return run(reverse<true>, dim3(1, 65536));
    throw std::invalid_argument("run_wrong_kernel: there is none called '" + name + "'");
}

}  // namespace minillm::on_host
