// Work on many arrays by one launch: the table of them is an argument of the kernel, nothing is
// uploaded. Each block has a range of one of them.
#pragma once

#include <algorithm>

#include "rows.h"

namespace minillm::device {

constexpr int64_t range = 4 * block_threads * 4;  // elements of a block
// Items of a launch: CUDA 12.0 passes no more than 4096 bytes to a kernel.
constexpr int most_items(size_t size) {
    const int fit = static_cast<int>((4096 - 256) / (size + sizeof(int64_t)));
    return fit < 64 ? fit : 64;
}

// The arrays of one launch and the number of the first block of each.
template <class Item>
struct Table {
    static constexpr int most = most_items(sizeof(Item));
    Item items[most];
    int64_t starts[most + 1];
    int count;

    // The array and the first of its elements that are this block's.
    __device__ const Item& own(int64_t* first) const {
        int low = 0, high = count;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            (starts[middle] <= blockIdx.x ? low : high) = middle;
        }
        *first = (blockIdx.x - starts[low]) * range;
        return items[low];
    }
};

// use(table, blocks) for so many arrays at a time.
template <class Item, class Use>
void in_tables(const Item* items, int64_t count, const Use& use) {
    for (int64_t done = 0; done < count; done += Table<Item>::most) {
        Table<Item> table{};
        table.count = static_cast<int>(std::min<int64_t>(Table<Item>::most, count - done));
        for (int i = 0; i < table.count; i++) {
            table.items[i] = items[done + i];
            table.starts[i + 1] = table.starts[i] + divide_up(table.items[i].n, range);
        }
        use(table, table.starts[table.count]);
    }
}

// body(place, Width<W>()) for the packs of this block's range that are this thread's.
template <int W>
struct Width {
    static constexpr int value = W;
};

template <class Body>
__device__ __forceinline__ void over_range(int64_t first, int64_t n, bool fours, Body body) {
    const int64_t end = min(first + range, n);
    if (fours) {
#pragma unroll
        for (int k = 0; k < range / (4 * block_threads); k++) {
            const int64_t i = first + (k * block_threads + threadIdx.x) * 4;
            if (i < end) body(i, Width<4>());
        }
    } else {
        for (int64_t i = first + threadIdx.x; i < end; i += block_threads) body(i, Width<1>());
    }
}

// Whether n elements from each of these addresses can be moved by fours.
template <class... T>
__device__ __forceinline__ bool aligned(int64_t n, T*... arrays) {
    return n % 4 == 0 && ((reinterpret_cast<uintptr_t>(arrays) % 16 == 0) && ...);
}

// Sums of doubles over a block, in thread 0.
__device__ __forceinline__ double over_block(double value) {
    __shared__ double sums[block_threads / warp_size];
    for (int with = warp_size / 2; with > 0; with /= 2)
        value += __shfl_xor_sync(all_lanes, value, with);
    if (threadIdx.x % warp_size == 0) sums[threadIdx.x / warp_size] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int i = 1; i < block_threads / warp_size; i++) value += sums[i];
    return value;
}

// AdamW's settings as kernels take them.
struct Rates {
    float decay, rate, root, beta1, rest1, beta2, rest2, eps, grad_scale;

    explicit Rates(const AdamW& s)
        : decay(static_cast<float>(1 - s.lr * s.weight_decay)),
          rate(static_cast<float>(s.lr / (1 - pow(s.beta1, static_cast<double>(s.step))))),
          root(static_cast<float>(sqrt(1 - pow(s.beta2, static_cast<double>(s.step))))),
          beta1(static_cast<float>(s.beta1)),
          rest1(static_cast<float>(1 - s.beta1)),
          beta2(static_cast<float>(s.beta2)),
          rest2(static_cast<float>(1 - s.beta2)),
          eps(static_cast<float>(s.eps)),
          grad_scale(static_cast<float>(s.grad_scale)) {}

    // The parameter after the update of it and of its moments.
    __device__ __forceinline__ float update(float param, float grad, float& m, float& v) const {
        const float g = grad * grad_scale;
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * g * g;
        return param * decay - rate * m / (sqrtf(v) / root + eps);
    }
};

}  // namespace minillm::device
