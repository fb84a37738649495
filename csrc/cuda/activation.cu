#include "activation.h"
#include "elements.h"
#include "kernels.h"

namespace minillm::device {
namespace {

template <class F>
struct Forward {
    __device__ float operator()(int64_t, float x) const { return F::of(x); }
};

template <class F>
struct Backward {
    __device__ float operator()(int64_t, float grad, float x) const { return grad * F::slope(x); }
};

}  // namespace

void gelu_forward(const float* x, int64_t n, bool tanh, float* out) {
    if (tanh)
        for_each_element(n, Forward<GeluTanh>(), out, x);
    else
        for_each_element(n, Forward<Gelu>(), out, x);
}

void gelu_backward(const float* grad, const float* x, int64_t n, bool tanh, float* dx) {
    if (tanh)
        for_each_element(n, Backward<GeluTanh>(), dx, grad, x);
    else
        for_each_element(n, Backward<Gelu>(), dx, grad, x);
}

void silu_forward(const float* x, int64_t n, float* out) {
    for_each_element(n, Forward<Silu>(), out, x);
}

void silu_backward(const float* grad, const float* x, int64_t n, float* dx) {
    for_each_element(n, Backward<Silu>(), dx, grad, x);
}

}  // namespace minillm::device
