// Activations and their derivatives. Where a formula would meet inf * 0, one factor is held at a
// finite value at which the other is already 0, so that the result is the limit.
#include "declare.h"
#include "math.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

vf clamp(vf x, float bound) { return min(splat(bound), max(splat(-bound), x)); }  // keeps NaN

struct Sigmoid {
    vf value, slope;
};

Sigmoid sigmoid(vf x) {
    const vf power = exp(-magnitude(x));  // at most 1: no overflow
    const vf inverse = 1.0f / (1.0f + power), small = power * inverse;
    return {select(x < 0.0f, small, inverse), small * inverse};
}

constexpr float root = 0.797884561f;  // of 2/pi

// 0.5 (1 + tanh(y)) is the sigmoid of 2y.
struct GeluTanh {
    static vf argument(vf x) { return 2 * root * (x + 0.044715f * x * x * x); }
    static vf value(vf x) { return max(splat(-1e3f), x) * sigmoid(argument(x)).value; }
    static vf slope(vf x) {
        const vf y = clamp(x, 15.0f);
        const Sigmoid s = sigmoid(argument(y));
        return s.value + y * s.slope * (2 * root * (1.0f + 3 * 0.044715f * y * y));
    }
};

struct GeluErf {
    static vf power(vf x) { return exp(-0.5f * x * x); }
    static vf value(vf x) { return max(splat(-1e3f), x) * normal_cdf(x, power(x)); }
    static vf slope(vf x) {
        const vf y = clamp(x, 15.0f), p = power(y);
        return normal_cdf(y, p) + y * p * 0.398942280f;  // 1/sqrt(2 pi)
    }
};

struct Silu {
    static vf value(vf x) { return max(splat(-1e3f), x) * sigmoid(x).value; }
    static vf slope(vf x) {
        const vf y = clamp(x, 1e3f);
        const Sigmoid s = sigmoid(y);
        return s.value + y * s.slope;
    }
};

template <class Function>
void apply(const float* x, int64_t n, float* out) {
    for_each_vector(n, [=](int64_t i, auto lanes) {
        store(out + i, Function::value(load(x + i, lanes)), lanes);
    });
}

template <class Function>
void apply_backward(const float* grad, const float* x, int64_t n, float* dx) {
    for_each_vector(n, [=](int64_t i, auto lanes) {
        store(dx + i, load(grad + i, lanes) * Function::slope(load(x + i, lanes)), lanes);
    });
}

}  // namespace

void gelu_forward(const float* x, int64_t n, bool tanh, float* out) {
    if (tanh)
        apply<GeluTanh>(x, n, out);
    else
        apply<GeluErf>(x, n, out);
}

void gelu_backward(const float* grad, const float* x, int64_t n, bool tanh, float* dx) {
    if (tanh)
        apply_backward<GeluTanh>(grad, x, n, dx);
    else
        apply_backward<GeluErf>(grad, x, n, dx);
}

void silu_forward(const float* x, int64_t n, float* out) { apply<Silu>(x, n, out); }

void silu_backward(const float* grad, const float* x, int64_t n, float* dx) {
    apply_backward<Silu>(grad, x, n, dx);
}

}  // namespace minillm::MINILLM_ISA
