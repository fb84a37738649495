// What an optimiser's step does to all parameters. A launch takes many arrays: the table of them is
// an argument of the kernel, nothing is uploaded.
#include "kernels.h"
#include "rows.h"

namespace minillm::device {
namespace {

constexpr int64_t range = 4 * block_threads * 4;  // elements of a block
constexpr int most = 64;                          // arrays of a launch

// The arrays of one launch and the number of the first block of each.
template <class Item>
struct Table {
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
    for (int64_t done = 0; done < count; done += most) {
        Table<Item> table{};
        table.count = static_cast<int>(std::min<int64_t>(most, count - done));
        for (int i = 0; i < table.count; i++) {
            table.items[i] = items[done + i];
            table.starts[i + 1] = table.starts[i] + divide_up(table.items[i].n, range);
        }
        use(table, table.starts[table.count]);
    }
}

// body(place, Width<W>()) for the packs of this block's range that are this thread's.
template <int W>
struct Width {};
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

struct Rates {
    float decay, rate, root, beta1, rest1, beta2, rest2, eps, grad_scale;
};

template <int W>
__device__ __forceinline__ void update(const Moments& p, const Rates& s, int64_t i, Width<W>) {
    const Pack<W> grad = load<W>(p.grad + i);
    Pack<W> param = *reinterpret_cast<Pack<W>*>(p.param + i);
    Pack<W> m = *reinterpret_cast<Pack<W>*>(p.m + i), v = *reinterpret_cast<Pack<W>*>(p.v + i);
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float g = grad.at[k] * s.grad_scale;
        m.at[k] = s.beta1 * m.at[k] + s.rest1 * g;
        v.at[k] = s.beta2 * v.at[k] + s.rest2 * g * g;
        const float change = s.rate * m.at[k] / (sqrtf(v.at[k]) / s.root + s.eps);
        param.at[k] = param.at[k] * s.decay - change;
    }
    store(p.param + i, param);
    store(p.m + i, m);
    store(p.v + i, v);
}

__global__ void __launch_bounds__(block_threads)
    adamw_kernel(const __grid_constant__ Table<Moments> table, Rates s) {
    int64_t first;
    const Moments& p = table.own(&first);
    const bool fours = aligned(p.n, p.param, p.grad, p.m, p.v);
    over_range(first, p.n, fours, [&](int64_t i, auto width) { update(p, s, i, width); });
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

template <int W>
__device__ __forceinline__ double squares(const float* x, Width<W>) {
    const Pack<W> pack = load<W>(x);
    double sum = 0;
#pragma unroll
    for (int k = 0; k < W; k++)
        sum += static_cast<double>(pack.at[k]) * static_cast<double>(pack.at[k]);
    return sum;
}

__global__ void __launch_bounds__(block_threads)
    squares_kernel(const __grid_constant__ Table<Flat> table, double* sums) {
    int64_t first;
    const Flat& x = table.own(&first);
    double sum = 0;
    over_range(first, x.n, aligned(x.n, x.data),
               [&](int64_t i, auto width) { sum += squares(x.data + i, width); });
    sum = over_block(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(block_threads)
    root_kernel(const double* sums, int64_t count, float* out) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += block_threads) sum += sums[i];
    sum = over_block(sum);
    if (threadIdx.x == 0) *out = static_cast<float>(sqrt(sum));
}

}  // namespace

void norm_forward(const Flat* arrays, int64_t count, float* out) {
    int64_t blocks = 0;
    for (int64_t i = 0; i < count; i++) blocks += divide_up(arrays[i].n, range);
    const Scratch<double> sums(blocks);
    double* next = sums.data();
    in_tables(arrays, count, [&](const Table<Flat>& table, int64_t some) {
        launch(squares_kernel, dim3(static_cast<unsigned>(some)), dim3(block_threads), 0, table,
               next);
        next += some;
    });
    launch(root_kernel, dim3(1), dim3(block_threads), 0, sums.data(), blocks, out);
}

void adamw_forward(const Moments* parameters, int64_t count, const AdamW& s) {
    const double t = static_cast<double>(s.step);
    const Rates rates{static_cast<float>(1 - s.lr * s.weight_decay),
                      static_cast<float>(s.lr / (1 - pow(s.beta1, t))),
                      static_cast<float>(sqrt(1 - pow(s.beta2, t))),
                      static_cast<float>(s.beta1),
                      static_cast<float>(1 - s.beta1),
                      static_cast<float>(s.beta2),
                      static_cast<float>(1 - s.beta2),
                      static_cast<float>(s.eps),
                      static_cast<float>(s.grad_scale)};
    in_tables(parameters, count, [&](const Table<Moments>& table, int64_t blocks) {
        launch(adamw_kernel, dim3(static_cast<unsigned>(blocks)), dim3(block_threads), 0, table,
               rates);
    });
}

}  // namespace minillm::device
