// Two linear layers with an activation between them. Of the hidden layer the memory sees what the
// contract keeps, float32 before the activation, and one copy as the next product takes it.
#include "activation.h"
#include "factor.h"
#include "few_rows.h"
#include "kernels.h"
#include "visit.h"

namespace minillm::device {
namespace {

template <class Activation, class T, int Width>
struct Activate {
    using Loaded = Pack<Width>;
    const float* hidden;
    int64_t stride;
    T* to;
    int64_t to_stride;

    __device__ Loaded load(int64_t row, int64_t col) const {
        return device::load<Width>(hidden + row * stride + col);
    }
    __device__ Pack<Width> finish(int64_t row, int64_t col, Loaded values) const {
#pragma unroll
        for (int i = 0; i < Width; i++) values.at[i] = Activation::of(values.at[i]);
        store(to + row * to_stride + col, values);
        return values;
    }
};

// What the activation gave, and the gradient that it passes on, from that of its result in `slope`,
// where the new one is written over it.
template <class Activation, class T, int Width>
struct Unbend {
    struct Loaded {
        Pack<Width> hidden, slope;
    };
    const float* hidden;
    int64_t stride;
    T *activated, *slope;
    int64_t to_stride;

    __device__ Loaded load(int64_t row, int64_t col) const {
        return {device::load<Width>(hidden + row * stride + col),
                own<Width>(slope + row * to_stride + col)};
    }
    __device__ Pack<Width> finish(int64_t row, int64_t col, Loaded values) const {
#pragma unroll
        for (int i = 0; i < Width; i++) {
            values.slope.at[i] *= Activation::slope(values.hidden.at[i]);
            values.hidden.at[i] = Activation::of(values.hidden.at[i]);
        }
        store(activated + row * to_stride + col, values.hidden);
        store(slope + row * to_stride + col, values.slope);
        return values.slope;
    }
};

// f(the activation)
template <class F>
void with_activation(minillm::Activation activation, F f) {
    if (activation == minillm::Activation::gelu) return f(Gelu());
    if (activation == minillm::Activation::gelu_tanh) return f(GeluTanh());
    f(Silu());
}

// The work of `Kind` on every element, by fours where rows lie so.
template <template <class, class, int> class Kind, class T, class... Rooms>
void visit_hidden(const FeedForward& f, const float* hidden, const Room& first,
                  const Rooms&... rooms) {
    with_activation(f.activation, [&](auto activation) {
        using A = decltype(activation);
        const auto work = [&](auto width) {
            constexpr int W = decltype(width)::value;
            visit<W>(Kind<A, T, W>{hidden, f.hidden, first.template data<T>(),
                                   rooms.template data<T>()..., first.stride()},
                     f.rows, f.hidden);
        };
        if (by_fours(f.hidden, {hidden}))
            work(std::integral_constant<int, 4>());
        else
            work(std::integral_constant<int, 1>());
    });
}

template <template <class, class, int> class Kind, class... Rooms>
void visit_hidden(const FeedForward& f, const float* hidden, const Room& first,
                  const Rooms&... rooms) {
    if (first.number() == Number::bf16)
        visit_hidden<Kind, bf16>(f, hidden, first, rooms...);
    else
        visit_hidden<Kind, float>(f, hidden, first, rooms...);
}

// What GELU gets may lie where cuBLASLt wants it, in the numbers of the product.
bool fuses(const FeedForward& f, const Room& room) {
    return f.activation == minillm::Activation::gelu_tanh && room.number() == Number::float32;
}

// hidden, and what the activation gives for it.
void enter(const FeedForward& f, const float* x, const float* weight1, const float* bias1,
           float* hidden, const Room& activated) {
    const Factor left(x, f.rows, f.inputs), right(weight1, f.hidden, f.inputs);
    Product p{f.rows, f.hidden, f.inputs, left, transposed(right),
              hidden, f.hidden, nullptr,  bias1};
    if (fuses(f, activated)) {
        Product all = p;
        all.out = activated.data<void>();
        all.stride = activated.stride();
        if (lt::multiply(all, {lt::Fused::gelu, hidden, f.hidden})) return;
    }
    multiply(p);
    visit_hidden<Activate>(f, hidden, activated);
}

// What the activation gave, and the gradient of what it got, from that of the result.
void leave(const FeedForward& f, const Operand& above, const Operand& weight2, const float* hidden,
           const Room& activated, const Room& slope) {
    Product p{f.rows, f.hidden, f.outputs, above, weight2, slope.data<void>(), slope.stride()};
    p.out_number = slope.number();
    if (fuses(f, slope) &&
        lt::multiply(p, {lt::Fused::gelu_slope, const_cast<float*>(hidden), f.hidden}))
        return visit_hidden<Activate>(f, hidden, activated);
    multiply(p);
    visit_hidden<Unbend>(f, hidden, activated, slope);
}

}  // namespace

void feed_forward_forward(const FeedForward& f, const float* x, const float* weight1,
                          const float* bias1, const float* weight2, const float* bias2,
                          const float* residual, float* hidden, float* out) {
    if (f.rows <= most_few_rows) {
        const Scratch<float> activated(f.rows * f.hidden);
        few_rows_forward(x, weight1, bias1, nullptr, f.rows, f.hidden, f.inputs, hidden);
        with_activation(f.activation, [&](auto activation) {
            visit<1>(Activate<decltype(activation), float, 1>{hidden, f.hidden, activated.data(),
                                                              f.hidden},
                     f.rows, f.hidden);
        });
        return few_rows_forward(activated.data(), weight2, bias2, residual, f.rows, f.outputs,
                                f.hidden, out);
    }
    const Room activated(f.rows, f.hidden);
    enter(f, x, weight1, bias1, hidden, activated);
    const Factor right(weight2, f.outputs, f.hidden);
    multiply({f.rows, f.outputs, f.hidden, activated, transposed(right), out, f.outputs, residual,
              bias2});
}

void feed_forward_backward(const FeedForward& f, const float* grad, const float* x,
                           const float* weight1, const float* weight2, const float* hidden,
                           Gradient dx, Gradient dweight1, Gradient dbias1, Gradient dweight2,
                           Gradient dbias2) {
    const Room activated(f.rows, f.hidden), slope(f.rows, f.hidden);
    {
        const Factor above(grad, f.rows, f.outputs);
        leave(f, above, Factor(weight2, f.outputs, f.hidden), hidden, activated, slope);
        weight_gradients(above, activated, f.rows, f.outputs, f.hidden, dweight2, dbias2);
    }
    if (dx.data)
        multiply_into(dx, f.rows, f.inputs, f.hidden, slope, Factor(weight1, f.hidden, f.inputs));
    if (dweight1.data)
        weight_gradients(slope, Factor(x, f.rows, f.inputs), f.rows, f.hidden, f.inputs, dweight1,
                         dbias1);
    else
        sum_columns(slope, f.rows, f.hidden, dbias1);
}

}  // namespace minillm::device
