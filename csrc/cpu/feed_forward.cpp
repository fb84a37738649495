#include "../scratch.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {

void feed_forward_forward(const FeedForward& f, const float* x, const float* weight1,
                          const float* bias1, const float* weight2, const float* bias2,
                          const float* residual, float* hidden, float* activated, float* out) {
    const int64_t n = f.rows * f.hidden;
    linear_forward(x, weight1, bias1, nullptr, f.rows, f.hidden, f.inputs, hidden);
    if (f.activation == Activation::silu)
        silu_forward(hidden, n, activated);
    else
        gelu_forward(hidden, n, f.activation == Activation::gelu_tanh, activated);
    linear_forward(activated, weight2, bias2, residual, f.rows, f.outputs, f.hidden, out);
}

void feed_forward_backward(const FeedForward& f, const float* grad, const float* x,
                           const float* weight1, const float* weight2, const float* hidden,
                           const float* activated, Gradient dx, Gradient dweight1, Gradient dbias1,
                           Gradient dweight2, Gradient dbias2) {
    const int64_t n = f.rows * f.hidden;
    const Scratch dhidden(n);  // of what is activated, then of what was before
    linear_backward(grad, activated, weight2, f.rows, f.outputs, f.hidden, {dhidden, false},
                    dweight2, dbias2);
    if (f.activation == Activation::silu)
        silu_backward(dhidden, hidden, n, dhidden);
    else
        gelu_backward(dhidden, hidden, n, f.activation == Activation::gelu_tanh, dhidden);
    linear_backward(dhidden, x, weight1, f.rows, f.hidden, f.inputs, dx, dweight1, dbias1);
}

}  // namespace minillm::MINILLM_ISA
