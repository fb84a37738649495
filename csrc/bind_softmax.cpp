#include "bindings.h"

namespace minillm {
namespace {

using Forward = void (*)(const float*, int64_t, int64_t, float*);
using Backward = void (*)(const float*, const float*, int64_t, int64_t, float*);

void forward(const char* name, Forward kernel, const Array& x, const Array& out) {
    const Arguments args(name);
    const auto [rows, cols] = args.sizes<2>(x, "x");
    const auto* x_data = args.input(x, "x", {rows, cols});
    auto* out_data = args.output(out, "out", {rows, cols});
    const Unlocked unlocked;
    kernel(x_data, rows, cols, out_data);
}

void backward(const char* name, Backward kernel, const Array& grad, const Array& out,
              const Array& dx) {
    const Arguments args(name);
    const auto [rows, cols] = args.sizes<2>(out, "out");
    const auto* grad_data = args.input(grad, "grad", {rows, cols});
    const auto* out_data = args.input(out, "out", {rows, cols});
    auto* dx_data = args.output(dx, "dx", {rows, cols});
    const Unlocked unlocked;
    kernel(grad_data, out_data, rows, cols, dx_data);
}

void softmax_forward(const Array& x, const Array& out) {
    forward("softmax_forward", kernels().softmax_forward, x, out);
}

void softmax_backward(const Array& grad, const Array& out, const Array& dx) {
    backward("softmax_backward", kernels().softmax_backward, grad, out, dx);
}

void log_softmax_forward(const Array& x, const Array& out) {
    forward("log_softmax_forward", kernels().log_softmax_forward, x, out);
}

void log_softmax_backward(const Array& grad, const Array& out, const Array& dx) {
    backward("log_softmax_backward", kernels().log_softmax_backward, grad, out, dx);
}

}  // namespace

void bind_softmax(pybind11::module_& module) {
    using pybind11::arg;
    module.def("softmax_forward", softmax_forward, arg("x"), arg("out"));
    module.def("softmax_backward", softmax_backward, arg("grad"), arg("out"), arg("dx"));
    module.def("log_softmax_forward", log_softmax_forward, arg("x"), arg("out"));
    module.def("log_softmax_backward", log_softmax_backward, arg("grad"), arg("out"), arg("dx"));
}

}  // namespace minillm
