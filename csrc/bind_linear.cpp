#include <pybind11/stl.h>

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

void linear_forward(const Array& x, const Array& weight, const Array& bias, const Array& out) {
    const Arguments args("linear_forward");
    const auto [n, k] = args.sizes<2>(x, "x");
    const auto m = args.sizes<2>(weight, "weight")[0];
    const auto* x_data = args.input(x, "x", {n, k});
    const auto* weight_data = args.input(weight, "weight", {m, k});
    const auto* bias_data = args.optional_input(bias, "bias", {m});
    auto* out_data = args.output(out, "out", {n, m});
    const Unlocked unlocked;
    kernels().linear_forward(x_data, weight_data, bias_data, n, m, k, out_data);
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

}  // namespace

void bind_linear(pybind11::module_& module) {
    using pybind11::arg;
    module.def("matmul_forward", matmul_forward, arg("a"), arg("b"), arg("out"));
    module.def("linear_forward", linear_forward, arg("x"), arg("weight"), arg("bias"), arg("out"));
    module.def("linear_backward", linear_backward, arg("grad"), arg("x"), arg("weight"), arg("dx"),
               arg("dweight"), arg("dbias"), arg("add"));
}

}  // namespace minillm
