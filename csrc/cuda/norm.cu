// LayerNorm if `centered`, else RMSNorm, which leaves the mean alone.
#include "columns.h"
#include "kernels.h"
#include "rows.h"

namespace minillm::device {
namespace {

template <bool centered>
struct Norm {
    const float* x;
    Columns weight, bias;
    float eps;
    float *out, *mean, *rstd;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, Held, W, 1> r(team, row, cols, x);
        const float size = static_cast<float>(cols);
        float center = 0, rest = 0;  // what rounding the mean lost
        if constexpr (centered) {
            center = r.sum([](float x) { return x; }) / size;
            rest = r.sum([=](float x) { return x - center; }) / size;
        }
        const float squares = r.sum([=](float x) {
            const float distance = x - center - rest;
            return distance * distance;
        });
        const float scale = 1 / sqrtf(squares / size + eps);
        r.write(
            out, row,
            [=](float x, float w, float b) { return (x - center - rest) * scale * w + b; }, weight,
            bias);
        if (team.rank() > 0) return;
        if constexpr (centered) mean[row] = center + rest;
        rstd[row] = scale;
    }
};

struct Backward {
    const float *grad, *x;
    Columns weight;
    const float *mean, *rstd;
    Gradient dx;
    float *weights, *biases;  // sums over chunks of rows, (chunks, cols), or null

    // The gradient of one row.
    template <bool centered, class Row>
    __device__ __forceinline__ void write(const Row& r, int64_t row, float center,
                                          float scale) const {
        const float size = static_cast<float>(r.cols);
        const auto inner = [](float g, float, float w) { return g * w; };
        const auto product = [=](float g, float x, float w) {
            return g * w * (x - center) * scale;
        };
        const float mean_grad = centered ? r.sum(inner, weight) / size : 0;
        const float mean_product = r.sum(product, weight) / size;
        r.write(
            dx, row,
            [=](float g, float x, float w) {
                return (g * w - mean_grad - (x - center) * scale * mean_product) * scale;
            },
            weight);
    }
};

// A chunk of rows: their gradients, and the sums over them, each thread's columns in registers.
template <class Team, int Held, int W, bool centered>
__global__ void __launch_bounds__(block_threads)
    backward_kernel(Backward b, int64_t rows, int64_t cols, int64_t each) {
    __shared__ float shared[block_threads / warp_size];
    const Team team{shared};
    constexpr int teams = block_threads / Team::threads;
    const int own = static_cast<int>(threadIdx.x) / Team::threads;
    const int64_t first = blockIdx.x * each, end = min(first + each, rows);
    Pack<W> to_weight[Held] = {}, to_bias[Held] = {};
    for (int64_t row = first + own; row < end; row += teams) {
        const Row<Team, Held, W, 2> r(team, row, cols, b.grad, b.x);
        const float center = centered ? b.mean[row] : 0, scale = b.rstd[row];
        b.write<centered>(r, row, center, scale);
        r.each([&](int64_t, int place, const Pack<W>* packs) {
#pragma unroll
            for (int i = 0; i < W; i++) {
                to_weight[place].at[i] += packs[0].at[i] * ((packs[1].at[i] - center) * scale);
                to_bias[place].at[i] += packs[0].at[i];
            }
        });
    }
    for (int turn = 0; turn < teams; turn++) {  // one team after the other adds its own
        if (turn > 0) __syncthreads();
        if (turn != own) continue;
#pragma unroll
        for (int place = 0; place < Held; place++) {
            const int64_t col = (place * Team::threads + team.rank()) * W;
            if (col >= cols) continue;
            const int64_t at = blockIdx.x * cols + col;
            const auto add = [&](float* sums, Pack<W> pack) {
                if (!sums) return;
                auto* to = reinterpret_cast<Pack<W>*>(sums + at);
                *to = turn > 0 ? plus(*to, pack) : pack;
            };
            add(b.weights, to_weight[place]);
            add(b.biases, to_bias[place]);
        }
    }
}

template <bool centered>
struct RowBackward {
    Backward b;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, 0, W, 2> r(team, row, cols, b.grad, b.x);
        b.write<centered>(r, row, centered ? b.mean[row] : 0, b.rstd[row]);
    }
};

// The sums over a chunk of rows alone, for rows that registers do not hold: a column a thread.
template <bool centered>
__global__ void __launch_bounds__(block_threads)
    columns_kernel(Backward b, int64_t rows, int64_t cols, int64_t each) {
    const int64_t col = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    if (col >= cols) return;
    const int64_t first = blockIdx.y * each, end = min(first + each, rows);
    float to_weight = 0, to_bias = 0;
    for (int64_t row = first; row < end; row++) {
        const float g = b.grad[row * cols + col];
        const float center = centered ? b.mean[row] : 0;
        to_weight += g * ((b.x[row * cols + col] - center) * b.rstd[row]);
        to_bias += g;
    }
    if (b.weights) b.weights[blockIdx.y * cols + col] = to_weight;
    if (b.biases) b.biases[blockIdx.y * cols + col] = to_bias;
}

template <bool centered>
void backward(Backward b, int64_t rows, int64_t cols, Gradient dweight, Gradient dbias) {
    const int64_t each = chunk_rows(rows), chunks = divide_up(rows, each);
    const Scratch<float> weights(dweight.data ? chunks * cols : 0);
    const Scratch<float> biases(dbias.data ? chunks * cols : 0);
    b.weights = weights.data();
    b.biases = biases.data();
    const bool fours = by_fours(cols, {b.grad, b.x, b.weight.data, b.dx.data});
    choose_shape(cols, fours, [&](auto shape) {
        using S = decltype(shape);
        const dim3 threads(block_threads);
        if constexpr (S::held > 0) {
            launch(backward_kernel<typename S::Team, S::held, S::width, centered>,
                   dim3(static_cast<unsigned>(chunks)), threads, 0, b, rows, cols, each);
        } else {
            for_each_row(rows, cols, fours, RowBackward<centered>{b});
            const auto blocks = static_cast<unsigned>(divide_up(cols, block_threads));
            if (b.weights || b.biases)
                launch(columns_kernel<centered>, dim3(blocks, static_cast<unsigned>(chunks)),
                       threads, 0, b, rows, cols, each);
        }
    });
    sum_rows(b.weights, chunks, cols, dweight);
    sum_rows(b.biases, chunks, cols, dbias);
}

}  // namespace

void layer_norm_forward(const float* x, const float* weight, const float* bias, double eps,
                        int64_t rows, int64_t cols, float* out, float* mean, float* rstd) {
    for_each_row(rows, cols, by_fours(cols, {x, weight, bias, out}),
                 Norm<true>{x, {weight, 1}, {bias, 0}, static_cast<float>(eps), out, mean, rstd});
}

void rms_norm_forward(const float* x, const float* weight, double eps, int64_t rows, int64_t cols,
                      float* out, float* rstd) {
    for_each_row(
        rows, cols, by_fours(cols, {x, weight, out}),
        Norm<false>{x, {weight, 1}, {nullptr, 0}, static_cast<float>(eps), out, nullptr, rstd});
}

void layer_norm_backward(const float* grad, const float* x, const float* weight, const float* mean,
                         const float* rstd, int64_t rows, int64_t cols, Gradient dx,
                         Gradient dweight, Gradient dbias) {
    const Backward b{grad, x, {weight, 1}, mean, rstd, dx, nullptr, nullptr};
    backward<true>(b, rows, cols, dweight, dbias);
}

void rms_norm_backward(const float* grad, const float* x, const float* weight, const float* rstd,
                       int64_t rows, int64_t cols, Gradient dx, Gradient dweight) {
    const Backward b{grad, x, {weight, 1}, nullptr, rstd, dx, nullptr, nullptr};
    backward<false>(b, rows, cols, dweight, {nullptr, false});
}

}  // namespace minillm::device
