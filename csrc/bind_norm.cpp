#include <pybind11/stl.h>

#include "bindings.h"

namespace minillm {
namespace {

void layer_norm_forward(const Array& x, const Array& weight, const Array& bias, double eps,
                        const Array& out, const Array& mean, const Array& rstd) {
    const Arguments args("layer_norm_forward");
    const auto [rows, cols] = args.sizes<2>(x, "x");
    const auto* x_data = args.input(x, "x", {rows, cols});
    const auto* weight_data = args.optional_input(weight, "weight", {cols});
    const auto* bias_data = args.optional_input(bias, "bias", {cols});
    auto* out_data = args.output(out, "out", {rows, cols});
    auto* mean_data = args.output(mean, "mean", {rows});
    auto* rstd_data = args.output(rstd, "rstd", {rows});
    const Unlocked unlocked;
    kernels().layer_norm_forward(x_data, weight_data, bias_data, eps, rows, cols, out_data,
                                 mean_data, rstd_data);
}

void layer_norm_backward(const Array& grad, const Array& x, const Array& weight, const Array& mean,
                         const Array& rstd, const Array& dx, const Array& dweight,
                         const Array& dbias, std::array<bool, 3> add) {
    const Arguments args("layer_norm_backward");
    const auto [rows, cols] = args.sizes<2>(x, "x");
    const auto* grad_data = args.input(grad, "grad", {rows, cols});
    const auto* x_data = args.input(x, "x", {rows, cols});
    const auto* weight_data = args.optional_input(weight, "weight", {cols});
    const auto* mean_data = args.input(mean, "mean", {rows});
    const auto* rstd_data = args.input(rstd, "rstd", {rows});
    args.require_rank(dx, "dx", 2);
    const Gradient to_x = args.gradient(dx, add[0], "dx", {rows, cols});
    const Gradient to_weight = args.gradient(dweight, add[1], "dweight", {cols});
    const Gradient to_bias = args.gradient(dbias, add[2], "dbias", {cols});
    const Unlocked unlocked;
    kernels().layer_norm_backward(grad_data, x_data, weight_data, mean_data, rstd_data, rows, cols,
                                  to_x, to_weight, to_bias);
}

void rms_norm_forward(const Array& x, const Array& weight, double eps, const Array& out,
                      const Array& rstd) {
    const Arguments args("rms_norm_forward");
    const auto [rows, cols] = args.sizes<2>(x, "x");
    const auto* x_data = args.input(x, "x", {rows, cols});
    const auto* weight_data = args.optional_input(weight, "weight", {cols});
    auto* out_data = args.output(out, "out", {rows, cols});
    auto* rstd_data = args.output(rstd, "rstd", {rows});
    const Unlocked unlocked;
    kernels().rms_norm_forward(x_data, weight_data, eps, rows, cols, out_data, rstd_data);
}

void rms_norm_backward(const Array& grad, const Array& x, const Array& weight, const Array& rstd,
                       const Array& dx, const Array& dweight, std::array<bool, 2> add) {
    const Arguments args("rms_norm_backward");
    const auto [rows, cols] = args.sizes<2>(x, "x");
    const auto* grad_data = args.input(grad, "grad", {rows, cols});
    const auto* x_data = args.input(x, "x", {rows, cols});
    const auto* weight_data = args.optional_input(weight, "weight", {cols});
    const auto* rstd_data = args.input(rstd, "rstd", {rows});
    args.require_rank(dx, "dx", 2);
    const Gradient to_x = args.gradient(dx, add[0], "dx", {rows, cols});
    const Gradient to_weight = args.gradient(dweight, add[1], "dweight", {cols});
    const Unlocked unlocked;
    kernels().rms_norm_backward(grad_data, x_data, weight_data, rstd_data, rows, cols, to_x,
                                to_weight);
}

}  // namespace

void bind_norm(pybind11::module_& module) {
    using pybind11::arg;
    module.def("layer_norm_forward", layer_norm_forward, arg("x"), arg("weight"), arg("bias"),
               arg("eps"), arg("out"), arg("mean"), arg("rstd"));
    module.def("layer_norm_backward", layer_norm_backward, arg("grad"), arg("x"), arg("weight"),
               arg("mean"), arg("rstd"), arg("dx"), arg("dweight"), arg("dbias"), arg("add"));
    module.def("rms_norm_forward", rms_norm_forward, arg("x"), arg("weight"), arg("eps"),
               arg("out"), arg("rstd"));
    module.def("rms_norm_backward", rms_norm_backward, arg("grad"), arg("x"), arg("weight"),
               arg("rstd"), arg("dx"), arg("dweight"), arg("add"));
}

}  // namespace minillm
