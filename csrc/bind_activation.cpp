#include "bindings.h"

namespace minillm {
namespace {

void gelu_forward(const Array& x, bool tanh, const Array& out) {
    const Arguments args("gelu_forward");
    const auto n = args.elements(x, "x");
    const auto* x_data = args.flat_input(x, "x", n);
    auto* out_data = args.flat_output(out, "out", n);
    const Unlocked unlocked;
    kernels().gelu_forward(x_data, n, tanh, out_data);
}

void gelu_backward(const Array& grad, const Array& x, bool tanh, const Array& dx) {
    const Arguments args("gelu_backward");
    const auto n = args.elements(x, "x");
    const auto* grad_data = args.flat_input(grad, "grad", n);
    const auto* x_data = args.flat_input(x, "x", n);
    auto* dx_data = args.flat_output(dx, "dx", n);
    const Unlocked unlocked;
    kernels().gelu_backward(grad_data, x_data, n, tanh, dx_data);
}

void silu_forward(const Array& x, const Array& out) {
    const Arguments args("silu_forward");
    const auto n = args.elements(x, "x");
    const auto* x_data = args.flat_input(x, "x", n);
    auto* out_data = args.flat_output(out, "out", n);
    const Unlocked unlocked;
    kernels().silu_forward(x_data, n, out_data);
}

void silu_backward(const Array& grad, const Array& x, const Array& dx) {
    const Arguments args("silu_backward");
    const auto n = args.elements(x, "x");
    const auto* grad_data = args.flat_input(grad, "grad", n);
    const auto* x_data = args.flat_input(x, "x", n);
    auto* dx_data = args.flat_output(dx, "dx", n);
    const Unlocked unlocked;
    kernels().silu_backward(grad_data, x_data, n, dx_data);
}

}  // namespace

void bind_activation(pybind11::module_& module) {
    using pybind11::arg;
    module.def("gelu_forward", gelu_forward, arg("x"), arg("tanh"), arg("out"));
    module.def("gelu_backward", gelu_backward, arg("grad"), arg("x"), arg("tanh"), arg("dx"));
    module.def("silu_forward", silu_forward, arg("x"), arg("out"));
    module.def("silu_backward", silu_backward, arg("grad"), arg("x"), arg("dx"));
}

}  // namespace minillm
