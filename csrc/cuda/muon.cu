// Muon: the gradient's mean made nearly orthogonal. Matrices of one shape go together, so that the
// number of launches does not grow with that of layers.
#include <algorithm>
#include <utility>
#include <vector>

#include "kernels.h"
#include "orthogonal.h"
#include "tables.h"

namespace minillm::device {
namespace {

constexpr int64_t most_numbers = 1 << 24;  // of matrices that are multiplied together, but for one

// A matrix with the place of what is to be made orthogonal, and of what it has become.
struct Taken {
    float* param;
    const float* grad;
    float *buffer, *x;
    int64_t n;
    float rate;
};

struct Mean {
    float keep, rest, grad_scale;
    bool nesterov;
};

template <int W>
__device__ __forceinline__ double take_in(const Taken& p, const Mean& s, int64_t i, Width<W>) {
    const Pack<W> grad = load<W>(p.grad + i);
    Pack<W> mean = own<W>(p.buffer + i), x;
    double squares = 0;
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float g = grad.at[k] * s.grad_scale;
        mean.at[k] = s.keep * mean.at[k] + s.rest * g;
        x.at[k] = s.nesterov ? s.keep * mean.at[k] + s.rest * g : mean.at[k];
        squares += static_cast<double>(x.at[k]) * static_cast<double>(x.at[k]);
    }
    store(p.buffer + i, mean);
    store(p.x + i, x);
    return squares;
}

// The mean takes in the gradient; sums[block], the squares of what is to be made orthogonal.
__global__ void __launch_bounds__(block_threads)
    take_in_kernel(const __grid_constant__ Table<Taken> table, Mean s, double* sums) {
    int64_t first;
    const Taken& p = table.own(&first);
    double sum = 0;
    over_range(first, p.n, aligned(p.n, p.grad, p.buffer, p.x),
               [&](int64_t i, auto width) { sum += take_in(p, s, i, width); });
    sum = over_block(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// factors[block], by which a matrix has the norm 1.
__global__ void __launch_bounds__(block_threads)
    factors_kernel(const double* sums, int64_t each, float eps, float* factors) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < each; i += block_threads) sum += sums[blockIdx.x * each + i];
    sum = over_block(sum);
    if (threadIdx.x == 0) factors[blockIdx.x] = 1 / fmaxf(static_cast<float>(sqrt(sum)), eps);
}

template <int W>
__device__ __forceinline__ void give(const Taken& p, float decay, int64_t i, Width<W>) {
    const Pack<W> x = load<W>(p.x + i);
    Pack<W> param = own<W>(p.param + i);
#pragma unroll
    for (int k = 0; k < W; k++) param.at[k] = param.at[k] * decay - p.rate * x.at[k];
    store(p.param + i, param);
}

__global__ void __launch_bounds__(block_threads)
    give_kernel(const __grid_constant__ Table<Taken> table, float decay) {
    int64_t first;
    const Taken& p = table.own(&first);
    over_range(first, p.n, aligned(p.n, p.param, p.x),
               [&](int64_t i, auto width) { give(p, decay, i, width); });
}

// Matrices of one shape.
void update(const Momentum* const* matrices, int64_t count, const Muon& s) {
    const int64_t rows = matrices[0]->rows, cols = matrices[0]->cols, n = rows * cols;
    const int64_t each = divide_up(n, range);
    const Scratch<float> x(count * n), factors(count);
    const Scratch<double> sums(count * each);
    std::vector<Taken> taken;
    for (int64_t i = 0; i < count; i++) {
        const Momentum& p = *matrices[i];
        taken.push_back(
            {p.param, p.grad, p.buffer, x.data() + i * n, n, static_cast<float>(s.lr * p.scale)});
    }
    const Mean mean{static_cast<float>(s.momentum), static_cast<float>(1 - s.momentum),
                    static_cast<float>(s.grad_scale), s.nesterov};
    double* next = sums.data();
    in_tables(taken.data(), count, [&](const Table<Taken>& table, int64_t blocks) {
        launch(take_in_kernel, dim3(static_cast<unsigned>(blocks)), dim3(block_threads), 0, table,
               mean, next);
        next += blocks;
    });
    launch(factors_kernel, dim3(static_cast<unsigned>(count)), dim3(block_threads), 0, sums.data(),
           each, static_cast<float>(s.eps), factors.data());
    orthogonalize(s, count, rows, cols, factors.data(), x.data());
    const auto decay = static_cast<float>(1 - s.lr * s.weight_decay);
    in_tables(taken.data(), count, [&](const Table<Taken>& table, int64_t blocks) {
        launch(give_kernel, dim3(static_cast<unsigned>(blocks)), dim3(block_threads), 0, table,
               decay);
    });
}

}  // namespace

void muon_forward(const Momentum* parameters, int64_t count, const Muon& s) {
    std::vector<const Momentum*> all;
    for (int64_t i = 0; i < count; i++)
        if (parameters[i].rows && parameters[i].cols) all.push_back(parameters + i);
    const auto shape = [](const Momentum* p) { return std::pair(p->rows, p->cols); };
    std::stable_sort(all.begin(), all.end(),
                     [&](const Momentum* a, const Momentum* b) { return shape(a) < shape(b); });
    for (size_t first = 0, end; first < all.size(); first = end) {
        const int64_t n = all[first]->rows * all[first]->cols;
        for (end = first + 1; end < all.size() && shape(all[end]) == shape(all[first]) &&
                              static_cast<int64_t>(end + 1 - first) * n <= most_numbers;)
            end++;
        update(all.data() + first, static_cast<int64_t>(end - first), s);
    }
}

}  // namespace minillm::device
