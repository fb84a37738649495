#include "declare.h"
#include "math.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

float finite_shift(float greatest) { return greatest == -infinity() ? 0 : greatest; }

}  // namespace

void softmax_forward(const float* x, int64_t rows, int64_t cols, float* out) {
    for_each_row(rows, cols, [=](int64_t row) {
        const float* from = x + row * cols;
        float* to = out + row * cols;
        const float shift = finite_shift(row_max(from, cols));
        const float total = sum_over(cols, [=](int64_t i, auto lanes) {
            const vf power = exp(load(from + i, lanes, -infinity()) - shift);
            store(to + i, power, lanes);
            return power;
        });
        const float scale = total == 0 ? 0 : 1 / total;
        over_vectors(0, cols, [&](int64_t i, auto lanes) {
            store(to + i, load(to + i, lanes) * scale, lanes);
        });
    });
}

void softmax_backward(const float* grad, const float* out, int64_t rows, int64_t cols, float* dx) {
    for_each_row(rows, cols, [=](int64_t row) {
        const float *g = grad + row * cols, *p = out + row * cols;
        const float expected = sum_over(
            cols, [=](int64_t i, auto lanes) { return load(g + i, lanes) * load(p + i, lanes); });
        over_vectors(0, cols, [&](int64_t i, auto lanes) {
            const vf d = load(p + i, lanes) * (load(g + i, lanes) - expected);
            store(dx + row * cols + i, d, lanes);
        });
    });
}

void log_softmax_forward(const float* x, int64_t rows, int64_t cols, float* out) {
    for_each_row(rows, cols, [=](int64_t row) {
        const float* from = x + row * cols;
        const float shift = finite_shift(row_max(from, cols));
        const float total = sum_over(cols, [=](int64_t i, auto lanes) {
            return exp(load(from + i, lanes, -infinity()) - shift);
        });
        const float log_total = total == 0 ? 0 : __builtin_logf(total);
        over_vectors(0, cols, [&](int64_t i, auto lanes) {
            store(out + row * cols + i, load(from + i, lanes) - shift - log_total, lanes);
        });
    });
}

void log_softmax_backward(const float* grad, const float* out, int64_t rows, int64_t cols,
                          float* dx) {
    for_each_row(rows, cols, [=](int64_t row) {
        const float *g = grad + row * cols, *log_p = out + row * cols;
        float sums[2];  // of the gradient; of the elements that are not -inf
        sum_over(cols, sums, [=](int64_t i, auto lanes, vf* parts) {
            parts[0] += load(g + i, lanes);
            const vf value = load(log_p + i, lanes, -infinity());
            parts[1] += select(value != -infinity(), splat(1.0f), vf{});
        });
        const float total = sums[0];
        const bool possible = sums[1] > 0;
        over_vectors(0, cols, [&](int64_t i, auto lanes) {
            const vf d = load(g + i, lanes) - exp(load(log_p + i, lanes)) * total;
            store(dx + row * cols + i, possible ? d : vf{}, lanes);
        });
    });
}

}  // namespace minillm::MINILLM_ISA
