// What is done to a block of a product while it is still in the first cache.
#include "activation.h"
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

// f(offset, sum, lanes) for the vectors of every row; offset as in out.c.
template <class F>
INLINE void each(const float* sums, int64_t sums_stride, int64_t rows, int64_t cols,
                 const Output& out, const F& f) {
    for (int64_t i = 0; i < rows; i++) {
        over_vectors(0, cols, [&](int64_t j, auto lanes) {
            vf sum = load(sums + i * sums_stride + j, lanes);
            if (out.start.data) sum += load(out.start.data + i * out.start.stride + j, lanes);
            if (out.bias) sum += load(out.bias + j, lanes);
            f(i * out.stride + j, sum, lanes);
        });
    }
}

template <class Function>
void activate(const float* sums, int64_t sums_stride, int64_t rows, int64_t cols,
              const Output& out) {
    if (out.finish == Output::Finish::activate)
        each(sums, sums_stride, rows, cols, out, [&](int64_t offset, vf sum, auto lanes) {
            store(out.beside + offset, sum, lanes);
            store(out.c + offset, Function::value(sum), lanes);
        });
    else
        each(sums, sums_stride, rows, cols, out, [&](int64_t offset, vf sum, auto lanes) {
            const Bend bend = Function::bend(load(out.bend_at + offset, lanes));
            store(out.beside + offset, bend.value, lanes);
            store(out.c + offset, sum * bend.slope, lanes);
        });
}

}  // namespace

void finish(const float* sums, int64_t sums_stride, int64_t rows, int64_t cols, const Output& out) {
    if (out.finish == Output::Finish::none || out.finish == Output::Finish::add_bias)
        return each(sums, sums_stride, rows, cols, out,
                    [&](int64_t offset, vf sum, auto lanes) { store(out.c + offset, sum, lanes); });
    switch (out.activation) {
        case Activation::gelu:
            return activate<GeluErf>(sums, sums_stride, rows, cols, out);
        case Activation::gelu_tanh:
            return activate<GeluTanh>(sums, sums_stride, rows, cols, out);
        case Activation::silu:
            return activate<Silu>(sums, sums_stride, rows, cols, out);
    }
}

}  // namespace minillm::MINILLM_ISA
