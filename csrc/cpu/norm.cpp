#include "../scratch.h"
#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

// LayerNorm if centered, else RMSNorm, which leaves the mean alone.
template <bool centered>
void norm_row(const float* x, const float* weight, const float* bias, double eps, int64_t cols,
              float* out, float* mean, float* rstd) {
    const float size = static_cast<float>(cols);
    float center = 0;
    if constexpr (centered)
        center = sum_over(cols, [=](int64_t i, auto lanes) { return load(x + i, lanes); }) / size;
    float sums[2];  // of the distances from the rounded mean; of their squares
    sum_over(cols, sums, [=](int64_t i, auto lanes, vf* parts) {
        const vf distance = load(x + i, lanes, center) - center;
        parts[0] += distance;
        parts[1] += distance * distance;
    });
    const float rest = centered ? sums[0] / size : 0;  // what rounding the mean lost
    const double variance = static_cast<double>(sums[1] / size) - static_cast<double>(rest) * rest;
    const float scale = static_cast<float>(1 / __builtin_sqrt(variance + eps));
    over_vectors(0, cols, [&](int64_t i, auto lanes) {
        vf y = (load(x + i, lanes) - center - rest) * scale;
        if (weight) y *= load(weight + i, lanes);
        if (bias) y += load(bias + i, lanes);
        store(out + i, y, lanes);
    });
    if constexpr (centered) *mean = center + rest;
    *rstd = scale;
}

// Adds this row's share to dweight and dbias where they are wanted.
template <bool centered>
void norm_row_backward(const float* grad, const float* x, const float* weight, float mean,
                       float rstd, int64_t cols, Gradient dx, float* dweight, float* dbias) {
    const auto normal = [=](int64_t i, auto lanes) {
        return (load(x + i, lanes, mean) - mean) * rstd;
    };
    const auto scaled = [=](int64_t i, auto lanes) {
        const vf g = load(grad + i, lanes);
        return weight ? g * load(weight + i, lanes) : g;
    };
    float sums[2];  // of the gradient of the normalised row; of its products with that row
    sum_over(cols, sums, [=](int64_t i, auto lanes, vf* parts) {
        const vf g = load(grad + i, lanes), y = normal(i, lanes), d = scaled(i, lanes);
        parts[0] += d;
        parts[1] += d * y;
        if (dweight) store(dweight + i, load(dweight + i, lanes) + g * y, lanes);
        if (dbias) store(dbias + i, load(dbias + i, lanes) + g, lanes);
    });
    const float size = static_cast<float>(cols), mean_product = sums[1] / size;
    const float mean_grad = centered ? sums[0] / size : 0;
    over_vectors(0, cols, [&](int64_t i, auto lanes) {
        vf d = (scaled(i, lanes) - mean_grad - normal(i, lanes) * mean_product) * rstd;
        if (dx.add) d = rounded(d) + load(dx.data + i, lanes);  // as if added apart
        store(dx.data + i, d, lanes);
    });
}

// The sums over rows are taken within chunks of rows, then over the chunks.
template <bool centered>
void norm_backward(const float* grad, const float* x, const float* weight, const float* mean,
                   const float* rstd, int64_t rows, int64_t cols, Gradient dx, Gradient dweight,
                   Gradient dbias) {
    const int64_t each = larger(16, rows_in_chunk(cols)), chunks = ceil_div(rows, each);
    const Scratch weights(dweight.data ? chunks * cols : 0), biases(dbias.data ? chunks * cols : 0);
    parallel_for(chunks, [&](int64_t chunk) {
        float* weight_sum = dweight.data ? weights + chunk * cols : nullptr;
        float* bias_sum = dbias.data ? biases + chunk * cols : nullptr;
        if (weight_sum) memset(weight_sum, 0, sizeof(float) * cols);
        if (bias_sum) memset(bias_sum, 0, sizeof(float) * cols);
        for (int64_t row = chunk * each; row < smaller(rows, (chunk + 1) * each); row++)
            norm_row_backward<centered>(grad + row * cols, x + row * cols, weight,
                                        centered ? mean[row] : 0, rstd[row], cols,
                                        {dx.data + row * cols, dx.add}, weight_sum, bias_sum);
    });
    sum_rows(weights, chunks, cols, dweight);
    sum_rows(biases, chunks, cols, dbias);
}

}  // namespace

void layer_norm_forward(const float* x, const float* weight, const float* bias, double eps,
                        int64_t rows, int64_t cols, float* out, float* mean, float* rstd) {
    for_each_row(rows, cols, [=](int64_t row) {
        norm_row<true>(x + row * cols, weight, bias, eps, cols, out + row * cols, mean + row,
                       rstd + row);
    });
}

void layer_norm_backward(const float* grad, const float* x, const float* weight, const float* mean,
                         const float* rstd, int64_t rows, int64_t cols, Gradient dx,
                         Gradient dweight, Gradient dbias) {
    norm_backward<true>(grad, x, weight, mean, rstd, rows, cols, dx, dweight, dbias);
}

void rms_norm_forward(const float* x, const float* weight, double eps, int64_t rows, int64_t cols,
                      float* out, float* rstd) {
    for_each_row(rows, cols, [=](int64_t row) {
        norm_row<false>(x + row * cols, weight, nullptr, eps, cols, out + row * cols, nullptr,
                        rstd + row);
    });
}

void rms_norm_backward(const float* grad, const float* x, const float* weight, const float* rstd,
                       int64_t rows, int64_t cols, Gradient dx, Gradient dweight) {
    norm_backward<false>(grad, x, weight, nullptr, rstd, rows, cols, dx, dweight, {});
}

}  // namespace minillm::MINILLM_ISA
