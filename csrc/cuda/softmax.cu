#include "kernels.h"
#include "rows.h"

namespace minillm::device {
namespace {

// What is taken from each number before exp: the greatest, or 0 where that is -inf.
template <class Row>
__device__ __forceinline__ float shift_of(const Row& row) {
    const float greatest = row.reduce(Maximum(), [](float x) { return x; });
    return greatest == -INFINITY ? 0 : greatest;
}

struct Softmax {
    const float* x;
    float* out;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, Held, W, 1> r(team, row, cols, x);
        const float shift = shift_of(r);
        const float total = r.sum([=](float x) { return expf(x - shift); });
        const float scale = total == 0 ? 0 : 1 / total;
        r.write(out, row, [=](float x) { return expf(x - shift) * scale; });
    }
};

struct SoftmaxBackward {
    const float *grad, *out;
    float* dx;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, Held, W, 2> r(team, row, cols, grad, out);
        const float expected = r.sum([](float g, float p) { return g * p; });
        r.write(dx, row, [=](float g, float p) { return p * (g - expected); });
    }
};

struct LogSoftmax {
    const float* x;
    float* out;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, Held, W, 1> r(team, row, cols, x);
        const float shift = shift_of(r);
        const float total = r.sum([=](float x) { return expf(x - shift); });
        const float log_total = total == 0 ? 0 : logf(total);
        r.write(out, row, [=](float x) { return x - shift - log_total; });
    }
};

struct LogSoftmaxBackward {
    const float *grad, *out;
    float* dx;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, Held, W, 2> r(team, row, cols, grad, out);
        const float total = r.sum([](float g, float) { return g; });
        const float greatest = r.reduce(Maximum(), [](float, float log_p) { return log_p; });
        const bool dead = greatest == -INFINITY;
        r.write(dx, row, [=](float g, float log_p) { return dead ? 0 : g - expf(log_p) * total; });
    }
};

}  // namespace

void softmax_forward(const float* x, int64_t rows, int64_t cols, float* out) {
    for_each_row(rows, cols, by_fours(cols, {x, out}), Softmax{x, out});
}

void softmax_backward(const float* grad, const float* out, int64_t rows, int64_t cols, float* dx) {
    for_each_row(rows, cols, by_fours(cols, {grad, out, dx}), SoftmaxBackward{grad, out, dx});
}

void log_softmax_forward(const float* x, int64_t rows, int64_t cols, float* out) {
    for_each_row(rows, cols, by_fours(cols, {x, out}), LogSoftmax{x, out});
}

void log_softmax_backward(const float* grad, const float* out, int64_t rows, int64_t cols,
                          float* dx) {
    for_each_row(rows, cols, by_fours(cols, {grad, out, dx}), LogSoftmaxBackward{grad, out, dx});
}

}  // namespace minillm::device
