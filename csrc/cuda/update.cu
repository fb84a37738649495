// What an optimiser's step does to all parameters: the gradient's norm, AdamW, SGD, the way to
// averages. Memory is what takes the time: each array is read and written once.
#include "kernels.h"
#include "tables.h"

namespace minillm::device {
namespace {

__device__ __forceinline__ bool by_fours(const Moments& p) {
    return aligned(p.n, p.param, p.grad, p.m, p.v);
}
__device__ __forceinline__ bool by_fours(const Sums& p) {
    return aligned(p.n, p.param, p.grad, p.buffer);
}
__device__ __forceinline__ bool by_fours(const Way& p) { return aligned(p.n, p.start, p.end); }

template <int W>
__device__ __forceinline__ void update(const Moments& p, const Rates& s, int64_t i, Width<W>) {
    const Pack<W> grad = load<W>(p.grad + i);
    Pack<W> param = own<W>(p.param + i), m = own<W>(p.m + i), v = own<W>(p.v + i);
#pragma unroll
    for (int k = 0; k < W; k++) param.at[k] = s.update(param.at[k], grad.at[k], m.at[k], v.at[k]);
    store(p.param + i, param);
    store(p.m + i, m);
    store(p.v + i, v);
}

struct Descent {
    float lr, momentum, decay, grad_scale;
};

template <int W>
__device__ __forceinline__ void update(const Sums& p, const Descent& s, int64_t i, Width<W>) {
    const Pack<W> grad = load<W>(p.grad + i);
    Pack<W> param = own<W>(p.param + i), sum = own<W>(p.buffer + i);
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float step = grad.at[k] * s.grad_scale + s.decay * param.at[k];
        sum.at[k] = s.momentum * sum.at[k] + step;
        param.at[k] -= s.lr * sum.at[k];
    }
    store(p.param + i, param);
    store(p.buffer + i, sum);
}

template <int W>
__device__ __forceinline__ void update(const Way& p, float weight, int64_t i, Width<W>) {
    const Pack<W> end = load<W>(p.end + i);
    Pack<W> start = own<W>(p.start + i);
#pragma unroll
    for (int k = 0; k < W; k++) start.at[k] += weight * (end.at[k] - start.at[k]);
    store(p.start + i, start);
}

template <class Item, class Settings>
__global__ void __launch_bounds__(block_threads)
    update_kernel(const __grid_constant__ Table<Item> table, Settings s) {
    int64_t first;
    const Item& p = table.own(&first);
    over_range(first, p.n, by_fours(p), [&](int64_t i, auto width) { update(p, s, i, width); });
}

template <class Item, class Settings>
void update_all(const Item* items, int64_t count, const Settings& s) {
    in_tables(items, count, [&](const Table<Item>& table, int64_t blocks) {
        launch(update_kernel<Item, Settings>, dim3(static_cast<unsigned>(blocks)),
               dim3(block_threads), 0, table, s);
    });
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
    update_all(parameters, count, Rates(s));
}

void sgd_forward(const Sums* parameters, int64_t count, const SGD& s) {
    update_all(parameters, count,
               Descent{static_cast<float>(s.lr), static_cast<float>(s.momentum),
                       static_cast<float>(s.weight_decay), static_cast<float>(s.grad_scale)});
}

void lerp_forward(const Way* pairs, int64_t count, double weight) {
    update_all(pairs, count, static_cast<float>(weight));
}

}  // namespace minillm::device
