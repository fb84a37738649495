// What only training needs: the embedding's gradient, dropout, the gradient's norm, AdamW, Muon.
#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "bindings.h"

namespace minillm {
namespace {

void embedding_backward(const Array& grad, const Array& ids, const Array& dweight, bool add) {
    const Arguments args("embedding_backward");
    const auto [n, cols] = args.sizes<2>(grad, "grad");
    const auto vocabulary = args.sizes<2>(dweight, "dweight")[0];
    const auto* grad_data = args.input(grad, "grad", {n, cols});
    const auto* ids_data = args.ids(ids, "ids", {n});
    args.require_ids(ids_data, n, "ids", vocabulary);
    const Gradient to_weight = args.gradient(dweight, add, "dweight", {vocabulary, cols});
    const Unlocked unlocked;
    kernels().embedding_backward(grad_data, ids_data, n, vocabulary, cols, to_weight);
}

// A number, or an array of one that is read when the kernel runs.
Seed seed_of(const Arguments& args, const pybind11::object& seed) {
    if (PyLong_Check(seed.ptr())) return {seed.cast<uint64_t>(), nullptr};
    const int64_t* at = args.ids(seed.cast<Array>(), "seed", {1});
    return {0, reinterpret_cast<const uint64_t*>(at)};
}

void dropout(const char* name, const Array& x, double p, const pybind11::object& begin,
             const Array& out) {
    const Arguments args(name);
    const Seed seed = seed_of(args, begin);
    const auto n = args.elements(x, "the input");
    const auto* x_data = args.flat_input(x, "the input", n);
    args.require_probability(p, "p");
    auto* out_data = args.flat_output(out, "the output", n);
    const Unlocked unlocked;
    kernels().dropout_forward(x_data, n, p, seed, out_data);
}

void dropout_forward(const Array& x, double p, const pybind11::object& seed, const Array& out) {
    dropout("dropout_forward", x, p, seed, out);
}

// The gradient passes where the input did.
void dropout_backward(const Array& grad, double p, const pybind11::object& seed, const Array& dx) {
    dropout("dropout_backward", grad, p, seed, dx);
}

void norm_forward(const std::vector<Array>& arrays, const Array& out) {
    const Arguments args("norm_forward");
    std::vector<Flat> flat;
    flat.reserve(arrays.size());
    for (const Array& x : arrays) {
        const auto n = args.elements(x, "an array");
        flat.push_back({args.flat_input(x, "an array", n), n});
    }
    auto* out_data = args.flat_output(out, "out", 1);
    const Unlocked unlocked;
    kernels().norm_forward(flat.data(), static_cast<int64_t>(flat.size()), out_data);
}

void adamw_forward(const std::vector<Array>& arrays, double lr, double beta1, double beta2,
                   double eps, double weight_decay, int64_t step, double grad_scale) {
    const Arguments args("adamw_forward");
    if (arrays.size() % 4 != 0)
        args.fail(std::to_string(arrays.size()) +
                  " arrays, param, grad, m and v of every parameter are needed");
    std::vector<Moments> parameters;
    parameters.reserve(arrays.size() / 4);
    for (size_t i = 0; i < arrays.size(); i += 4) {
        const auto n = args.elements(arrays[i], "param");
        parameters.push_back(
            {args.flat_output(arrays[i], "param", n), args.flat_input(arrays[i + 1], "grad", n),
             args.flat_output(arrays[i + 2], "m", n), args.flat_output(arrays[i + 3], "v", n), n});
    }
    if (step < 1) args.fail("step is " + std::to_string(step) + ", at least 1 is needed");
    const Unlocked unlocked;
    kernels().adamw_forward(parameters.data(), static_cast<int64_t>(parameters.size()),
                            {lr, beta1, beta2, eps, weight_decay, grad_scale, step});
}

void muon_forward(const std::vector<Array>& arrays, const std::vector<double>& scales, double lr,
                  double momentum, bool nesterov, double weight_decay, int64_t steps,
                  const std::array<double, 3>& quintic, double eps, double grad_scale) {
    const Arguments args("muon_forward");
    if (arrays.size() != 3 * scales.size())
        args.fail(std::to_string(arrays.size()) + " arrays and " + std::to_string(scales.size()) +
                  " scales, param, grad and momentum_buffer are needed for each scale");
    std::vector<Momentum> matrices;
    matrices.reserve(scales.size());
    for (size_t i = 0; i < scales.size(); i++) {
        const Array &param = arrays[3 * i], &grad = arrays[3 * i + 1], &buffer = arrays[3 * i + 2];
        const auto [rows, cols] = args.sizes<2>(param, "param");
        matrices.push_back(
            {args.output(param, "param", {rows, cols}), args.input(grad, "grad", {rows, cols}),
             args.output(buffer, "momentum_buffer", {rows, cols}), rows, cols, scales[i]});
    }
    const Unlocked unlocked;
    kernels().muon_forward(matrices.data(), static_cast<int64_t>(matrices.size()),
                           {lr, momentum, weight_decay, eps, grad_scale, quintic[0], quintic[1],
                            quintic[2], steps, nesterov});
}

}  // namespace

void bind_training(pybind11::module_& module) {
    using pybind11::arg;
    module.def("embedding_backward", embedding_backward, arg("grad"), arg("ids"), arg("dweight"),
               arg("add"));
    module.def("dropout_forward", dropout_forward, arg("x"), arg("p"), arg("seed"), arg("out"));
    module.def("dropout_backward", dropout_backward, arg("grad"), arg("p"), arg("seed"), arg("dx"));
    module.def("norm_forward", norm_forward, arg("arrays"), arg("out"));
    module.def("adamw_forward", adamw_forward, arg("arrays"), arg("lr"), arg("beta1"), arg("beta2"),
               arg("eps"), arg("weight_decay"), arg("step"), arg("grad_scale"));
    module.def("muon_forward", muon_forward, arg("arrays"), arg("scales"), arg("lr"),
               arg("momentum"), arg("nesterov"), arg("weight_decay"), arg("steps"), arg("quintic"),
               arg("eps"), arg("grad_scale"));
}

}  // namespace minillm
