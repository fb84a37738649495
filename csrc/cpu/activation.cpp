#include "activation.h"

#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t ahead = 1024;  // the processor itself fetches ahead within a page only

template <class Function>
void apply(const float* x, int64_t n, float* out) {
    for_each_vector(n, [=](int64_t i, auto lanes) {
        __builtin_prefetch(x + i + ahead);
        __builtin_prefetch(out + i + ahead, 1);
        store(out + i, Function::value(load(x + i, lanes)), lanes);
    });
}

template <class Function>
void apply_backward(const float* grad, const float* x, int64_t n, float* dx) {
    for_each_vector(n, [=](int64_t i, auto lanes) {
        store(dx + i, load(grad + i, lanes) * Function::bend(load(x + i, lanes)).slope, lanes);
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
