#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "bindings.h"

namespace minillm {
namespace {

int64_t elements(const Array& a, int axis) { return a.strides[axis] / 4; }

Matrix last_two_axes(const Arguments& args, const Array& a, const char* name) {
    if (!a.given || a.ndim < 2)
        args.fail(std::string(name) + " has shape " + (a.given ? shape_of(a) : "None") +
                  ", at least 2 axes are needed");
    args.require_type(a, name, Type::float32);
    const int row = a.ndim - 2, col = a.ndim - 1;
    return {static_cast<const float*>(a.data), a.shape[row], a.shape[col], elements(a, row),
            elements(a, col)};
}

// Where the matrices of `a` begin as the leading axes of `out` run; axes of size 1 are repeated.
std::vector<int64_t> batch_offsets(const Arguments& args, const Array& a, const Array& out) {
    const auto fail = [&] {
        args.fail("an input has shape " + shape_of(a) + ", leading axes that broadcast to " +
                  shape_of(out) + " are needed");
    };
    if (a.ndim > out.ndim) fail();
    std::vector<int64_t> offsets{0};
    for (int axis = 0; axis < out.ndim - 2; axis++) {
        const int own = axis - (out.ndim - a.ndim);
        const bool repeated = own < 0 || a.shape[own] == 1;
        if (!repeated && a.shape[own] != out.shape[axis]) fail();
        std::vector<int64_t> next;
        next.reserve(offsets.size() * out.shape[axis]);
        for (const int64_t offset : offsets)
            for (int64_t i = 0; i < out.shape[axis]; i++)
                next.push_back(offset + (repeated ? 0 : i * elements(a, own)));
        offsets.swap(next);
    }
    return offsets;
}

// Left matrices that lie at equal steps and all meet the same right one are a single tall matrix.
bool one_tall_product(const Matrix& a, const std::vector<int64_t>& a_offsets,
                      const std::vector<int64_t>& b_offsets) {
    const auto step = a.rows * a.row_stride;
    for (size_t i = 0; i < a_offsets.size(); i++)
        if (b_offsets[i] != 0 || a_offsets[i] != static_cast<int64_t>(i) * step) return false;
    return true;
}

void matmul_forward(const Array& a, const Array& b, const Array& out) {
    const Arguments args("matmul_forward");
    Matrix left = last_two_axes(args, a, "a");
    const Matrix right = last_two_axes(args, b, "b");
    const Matrix product = last_two_axes(args, out, "out");
    if (left.cols != right.rows)
        args.fail("a has shape " + shape_of(a) + " and b " + shape_of(b) +
                  ", as many columns of a as rows of b are needed");
    if (product.rows != left.rows || product.cols != right.cols)
        args.fail("out has shape " + shape_of(out) + ", " + std::to_string(left.rows) +
                  " rows and " + std::to_string(right.cols) + " columns are needed");
    args.require_contiguous(out, "out");
    args.require_writable(out, "out");
    const std::vector<int64_t> a_offsets = batch_offsets(args, a, out);
    const std::vector<int64_t> b_offsets = batch_offsets(args, b, out);
    auto batch = static_cast<int64_t>(a_offsets.size());
    if (one_tall_product(left, a_offsets, b_offsets)) {
        left.rows *= batch;
        batch = batch > 0;
    }
    const Unlocked unlocked;
    kernels().matmul_forward(left, a_offsets.data(), right, b_offsets.data(), batch,
                             const_cast<float*>(product.data));
}

void linear_forward(const Array& x, const Array& weight, const Array& bias, const Array& residual,
                    const Array& out) {
    const Arguments args("linear_forward");
    const auto [n, k] = args.sizes<2>(x, "x");
    const auto m = args.sizes<2>(weight, "weight")[0];
    const auto* x_data = args.input(x, "x", {n, k});
    const auto* weight_data = args.input(weight, "weight", {m, k});
    const auto* bias_data = args.optional_input(bias, "bias", {m});
    const auto* residual_data = args.optional_input(residual, "residual", {n, m});
    auto* out_data = args.output(out, "out", {n, m});
    const Unlocked unlocked;
    kernels().linear_forward(x_data, weight_data, bias_data, residual_data, n, m, k, out_data);
}

void linear_backward(const Array& grad, const Array& x, const Array& weight, const Array& dx,
                     const Array& dweight, const Array& dbias, std::array<bool, 3> add) {
    const Arguments args("linear_backward");
    const auto [n, k] = args.sizes<2>(x, "x");
    const auto m = args.sizes<2>(weight, "weight")[0];
    const auto* grad_data = args.input(grad, "grad", {n, m});
    const auto* x_data = args.input(x, "x", {n, k});
    const auto* weight_data = args.input(weight, "weight", {m, k});
    const Gradient to_x = args.gradient(dx, add[0], "dx", {n, k});
    const Gradient to_weight = args.gradient(dweight, add[1], "dweight", {m, k});
    const Gradient to_bias = args.gradient(dbias, add[2], "dbias", {m});
    const Unlocked unlocked;
    kernels().linear_backward(grad_data, x_data, weight_data, n, m, k, to_x, to_weight, to_bias);
}

FeedForward feed_forward_of(const Arguments& args, const Array& x, const Array& weight1,
                            const Array& weight2, const std::string& activation) {
    const auto [rows, inputs] = args.sizes<2>(x, "x");
    const auto hidden = args.sizes<2>(weight1, "weight1")[0];
    const auto outputs = args.sizes<2>(weight2, "weight2")[0];
    const std::map<std::string, Activation> known{{"gelu", Activation::gelu},
                                                  {"gelu_tanh", Activation::gelu_tanh},
                                                  {"silu", Activation::silu}};
    const auto found = known.find(activation);
    if (found == known.end())
        args.fail("activation is '" + activation + "', gelu, gelu_tanh or silu is needed");
    return {rows, inputs, hidden, outputs, found->second};
}

void feed_forward_forward(const Array& x, const Array& weight1, const Array& bias1,
                          const Array& weight2, const Array& bias2, const Array& residual,
                          const std::string& activation, const Array& hidden, const Array& out) {
    const Arguments args("feed_forward_forward");
    const FeedForward f = feed_forward_of(args, x, weight1, weight2, activation);
    const auto* x_data = args.input(x, "x", {f.rows, f.inputs});
    const auto* weight1_data = args.input(weight1, "weight1", {f.hidden, f.inputs});
    const auto* bias1_data = args.optional_input(bias1, "bias1", {f.hidden});
    const auto* weight2_data = args.input(weight2, "weight2", {f.outputs, f.hidden});
    const auto* bias2_data = args.optional_input(bias2, "bias2", {f.outputs});
    const auto* residual_data = args.optional_input(residual, "residual", {f.rows, f.outputs});
    auto* hidden_data = args.output(hidden, "hidden", {f.rows, f.hidden});
    auto* out_data = args.output(out, "out", {f.rows, f.outputs});
    const Unlocked unlocked;
    kernels().feed_forward_forward(f, x_data, weight1_data, bias1_data, weight2_data, bias2_data,
                                   residual_data, hidden_data, out_data);
}

void feed_forward_backward(const Array& grad, const Array& x, const Array& weight1,
                           const Array& weight2, const Array& hidden, const std::string& activation,
                           const Array& dx, const Array& dweight1, const Array& dbias1,
                           const Array& dweight2, const Array& dbias2, std::array<bool, 5> add) {
    const Arguments args("feed_forward_backward");
    const FeedForward f = feed_forward_of(args, x, weight1, weight2, activation);
    const auto* grad_data = args.input(grad, "grad", {f.rows, f.outputs});
    const auto* x_data = args.input(x, "x", {f.rows, f.inputs});
    const auto* weight1_data = args.input(weight1, "weight1", {f.hidden, f.inputs});
    const auto* weight2_data = args.input(weight2, "weight2", {f.outputs, f.hidden});
    const auto* hidden_data = args.input(hidden, "hidden", {f.rows, f.hidden});
    const Gradient to_x = args.gradient(dx, add[0], "dx", {f.rows, f.inputs});
    const Gradient to_weight1 = args.gradient(dweight1, add[1], "dweight1", {f.hidden, f.inputs});
    const Gradient to_bias1 = args.gradient(dbias1, add[2], "dbias1", {f.hidden});
    const Gradient to_weight2 = args.gradient(dweight2, add[3], "dweight2", {f.outputs, f.hidden});
    const Gradient to_bias2 = args.gradient(dbias2, add[4], "dbias2", {f.outputs});
    const Unlocked unlocked;
    kernels().feed_forward_backward(f, grad_data, x_data, weight1_data, weight2_data, hidden_data,
                                    to_x, to_weight1, to_bias1, to_weight2, to_bias2);
}

}  // namespace

void bind_linear(pybind11::module_& module) {
    using pybind11::arg;
    module.def("matmul_forward", matmul_forward, arg("a"), arg("b"), arg("out"));
    module.def("linear_forward", linear_forward, arg("x"), arg("weight"), arg("bias"),
               arg("residual"), arg("out"));
    module.def("linear_backward", linear_backward, arg("grad"), arg("x"), arg("weight"), arg("dx"),
               arg("dweight"), arg("dbias"), arg("add"));
    module.def("feed_forward_forward", feed_forward_forward, arg("x"), arg("weight1"), arg("bias1"),
               arg("weight2"), arg("bias2"), arg("residual"), arg("activation"), arg("hidden"),
               arg("out"));
    module.def("feed_forward_backward", feed_forward_backward, arg("grad"), arg("x"),
               arg("weight1"), arg("weight2"), arg("hidden"), arg("activation"), arg("dx"),
               arg("dweight1"), arg("dbias1"), arg("dweight2"), arg("dbias2"), arg("add"));
}

}  // namespace minillm
