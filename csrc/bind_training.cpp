// What only training needs: the embedding's gradient, dropout, the gradient's norm, AdamW.
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

void dropout(const char* name, const Array& x, double p, uint64_t seed, const Array& out) {
    const Arguments args(name);
    const auto n = args.elements(x, "the input");
    const auto* x_data = args.flat_input(x, "the input", n);
    args.require_probability(p, "p");
    auto* out_data = args.flat_output(out, "the output", n);
    const Unlocked unlocked;
    kernels().dropout_forward(x_data, n, p, seed, out_data);
}

void dropout_forward(const Array& x, double p, uint64_t seed, const Array& out) {
    dropout("dropout_forward", x, p, seed, out);
}

// The gradient passes where the input did.
void dropout_backward(const Array& grad, double p, uint64_t seed, const Array& dx) {
    dropout("dropout_backward", grad, p, seed, dx);
}

void norm_forward(const Array& x, const Array& out) {
    const Arguments args("norm_forward");
    const auto n = args.elements(x, "x");
    const auto* x_data = args.flat_input(x, "x", n);
    auto* out_data = args.flat_output(out, "out", 1);
    const Unlocked unlocked;
    kernels().norm_forward(x_data, n, out_data);
}

void adamw_forward(const Array& param, const Array& grad, const Array& m, const Array& v, double lr,
                   double beta1, double beta2, double eps, double weight_decay, int64_t step,
                   double grad_scale) {
    const Arguments args("adamw_forward");
    const auto n = args.elements(param, "param");
    auto* param_data = args.flat_output(param, "param", n);
    const auto* grad_data = args.flat_input(grad, "grad", n);
    auto* m_data = args.flat_output(m, "m", n);
    auto* v_data = args.flat_output(v, "v", n);
    if (step < 1) args.fail("step is " + std::to_string(step) + ", at least 1 is needed");
    const Unlocked unlocked;
    kernels().adamw_forward(param_data, grad_data, m_data, v_data, n,
                            {lr, beta1, beta2, eps, weight_decay, grad_scale, step});
}

}  // namespace

void bind_training(pybind11::module_& module) {
    using pybind11::arg;
    module.def("embedding_backward", embedding_backward, arg("grad"), arg("ids"), arg("dweight"),
               arg("add"));
    module.def("dropout_forward", dropout_forward, arg("x"), arg("p"), arg("seed"), arg("out"));
    module.def("dropout_backward", dropout_backward, arg("grad"), arg("p"), arg("seed"), arg("dx"));
    module.def("norm_forward", norm_forward, arg("x"), arg("out"));
    module.def("adamw_forward", adamw_forward, arg("param"), arg("grad"), arg("m"), arg("v"),
               arg("lr"), arg("beta1"), arg("beta2"), arg("eps"), arg("weight_decay"), arg("step"),
               arg("grad_scale"));
}

}  // namespace minillm
