#include "rows.h"
#include "sort.h"

namespace minillm::device {
namespace {

constexpr int digit_bits = 8, digits = 1 << digit_bits;
constexpr int warps = block_threads / warp_size;
constexpr int each = 128;           // keys of a warp, taken 32 at a time, in order
constexpr int tile = warps * each;  // keys of a block

struct Pass {
    const uint32_t *keys, *places;
    uint32_t *new_keys, *new_places;
    int64_t n;
    int shift;
};

__global__ void __launch_bounds__(block_threads)
    keys_kernel(const int64_t* ids, int64_t n, int64_t limit, uint32_t* keys, uint32_t* places) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    if (i >= n) return;
    keys[i] = static_cast<uint32_t>(ids[i] >= 0 && ids[i] < limit ? ids[i] : limit);
    places[i] = static_cast<uint32_t>(i);
}

// visit(place, digit, peers) for the keys of this warp in order; peers: lanes with the same digit.
template <class Visit>
__device__ __forceinline__ void over_keys(const Pass& pass, Visit visit) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * tile + threadIdx.x / warp_size * each;
    for (int round = 0; round < each / warp_size; round++) {
        const int64_t i = first + round * warp_size + threadIdx.x % warp_size;
        const bool inside = i < pass.n;
        const int digit = inside ? pass.keys[i] >> pass.shift & (digits - 1) : digits;
        const unsigned peers = __match_any_sync(all_lanes, digit);
        if (inside) visit(i, digit, peers);
        __syncwarp();
    }
}

__device__ __forceinline__ int rank_among(unsigned peers) {
    return __popc(peers & ((1u << threadIdx.x % warp_size) - 1));
}

// counts[warp][digit] for the tile of this block.
__device__ __forceinline__ void count_digits(const Pass& pass, int (*counts)[digits]) {
    for (int i = threadIdx.x; i < warps * digits; i += block_threads) (&counts[0][0])[i] = 0;
    __syncthreads();
    int* own = counts[threadIdx.x / warp_size];
    over_keys(pass, [=](int64_t, int digit, unsigned peers) {
        if (rank_among(peers) == 0) own[digit] += __popc(peers);
    });
    __syncthreads();
}

__global__ void __launch_bounds__(block_threads) count_kernel(Pass pass, uint32_t* starts) {
    __shared__ int counts[warps][digits];
    count_digits(pass, counts);
    int sum = 0;
    for (int warp = 0; warp < warps; warp++) sum += counts[warp][threadIdx.x];
    starts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = sum;
}

// starts[i] becomes the sum of those before it; one block.
__global__ void __launch_bounds__(block_threads) scan_kernel(uint32_t* starts, int64_t n) {
    __shared__ uint32_t sums[block_threads];
    const int64_t part = divide_up(n, block_threads);
    const int64_t first = min(threadIdx.x * part, n), end = min(first + part, n);
    uint32_t sum = 0;
    for (int64_t i = first; i < end; i++) sum += starts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    uint32_t before = 0;
    for (unsigned i = 0; i < threadIdx.x; i++) before += sums[i];
    for (int64_t i = first; i < end; i++) {
        const uint32_t own = starts[i];
        starts[i] = before;
        before += own;
    }
}

__global__ void __launch_bounds__(block_threads) scatter_kernel(Pass pass, const uint32_t* starts) {
    __shared__ int counts[warps][digits];
    count_digits(pass, counts);
    uint32_t start = starts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x];
    for (int warp = 0; warp < warps; warp++) {
        const int count = counts[warp][threadIdx.x];
        counts[warp][threadIdx.x] = static_cast<int>(start);
        start += count;
    }
    __syncthreads();
    int* own = counts[threadIdx.x / warp_size];
    over_keys(pass, [=](int64_t i, int digit, unsigned peers) {
        const int rank = rank_among(peers), at = own[digit] + rank;
        pass.new_keys[at] = pass.keys[i];
        pass.new_places[at] = pass.places[i];
        __syncwarp(peers);  // all have read where they begin
        if (rank == 0) own[digit] += __popc(peers);
    });
}

}  // namespace

Sorted::Sorted(const int64_t* ids, int64_t n, int64_t limit) : keys_(2 * n), places_(2 * n), n_(n) {
    const int64_t tiles = divide_up(n, tile);
    const Scratch<uint32_t> starts(digits * tiles);
    const dim3 blocks(static_cast<unsigned>(tiles)), threads(block_threads);
    launch(keys_kernel, dim3(static_cast<unsigned>(divide_up(n, block_threads))), threads, 0, ids,
           n, limit, keys_.data(), places_.data());
    for (int shift = 0; shift < 32 && limit >> shift; shift += digit_bits) {
        const int64_t from = second_ ? n : 0, to = n - from;
        const Pass pass{keys_.data() + from,
                        places_.data() + from,
                        keys_.data() + to,
                        places_.data() + to,
                        n,
                        shift};
        launch(count_kernel, blocks, threads, 0, pass, starts.data());
        launch(scan_kernel, dim3(1), threads, 0, starts.data(), digits * tiles);
        launch(scatter_kernel, blocks, threads, 0, pass, starts.data());
        second_ = !second_;
    }
}

}  // namespace minillm::device
