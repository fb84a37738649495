// The activation is applied to each block of the first product, and its slope to each block of the
// second's gradient, while they are in the cache.
#include "../scratch.h"
#include "bf16.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {

void feed_forward_forward(const FeedForward& f, const float* x, const float* weight1,
                          const float* bias1, const float* weight2, const float* bias2,
                          const float* residual, float* hidden, float* out) {
#if MINILLM_AMX
    if (const int pieces = pieces_for(f))
        return feed_forward_tiles(f, pieces, x, weight1, bias1, weight2, bias2, residual, hidden,
                                  out);
#endif
    const Scratch activated(f.rows * f.hidden);
    Output middle{activated, f.hidden, {}, Output::Finish::activate, f.activation};
    middle.bias = bias1;
    middle.beside = hidden;
    gemm(row_major(x, f.rows, f.inputs), transposed(row_major(weight1, f.hidden, f.inputs)),
         middle);
    linear_forward(activated, weight2, bias2, residual, f.rows, f.outputs, f.hidden, out);
}

void feed_forward_backward(const FeedForward& f, const float* grad, const float* x,
                           const float* weight1, const float* weight2, const float* hidden,
                           Gradient dx, Gradient dweight1, Gradient dbias1, Gradient dweight2,
                           Gradient dbias2) {
#if MINILLM_AMX
    if (const int pieces = pieces_for(f))
        return feed_forward_backward_tiles(f, pieces, grad, x, weight1, weight2, hidden, dx,
                                           dweight1, dbias1, dweight2, dbias2);
#endif
    const Scratch dhidden(f.rows * f.hidden), activated(f.rows * f.hidden);
    Output middle{dhidden, f.hidden, {}, Output::Finish::bend, f.activation};
    middle.bend_at = hidden;
    middle.beside = activated;
    gemm(row_major(grad, f.rows, f.outputs), row_major(weight2, f.outputs, f.hidden), middle);
    linear_backward(grad, activated, weight2, f.rows, f.outputs, f.hidden, {}, dweight2, dbias2);
    linear_backward(dhidden, x, weight1, f.rows, f.hidden, f.inputs, dx, dweight1, dbias1);
}

}  // namespace minillm::MINILLM_ISA
