// What only training needs, but for updates (bind_update.cpp): the embedding's gradient, dropout.
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

}  // namespace

void bind_training(pybind11::module_& module) {
    using pybind11::arg;
    module.def("embedding_backward", embedding_backward, arg("grad"), arg("ids"), arg("dweight"),
               arg("add"));
    module.def("dropout_forward", dropout_forward, arg("x"), arg("p"), arg("seed"), arg("out"));
    module.def("dropout_backward", dropout_backward, arg("grad"), arg("p"), arg("seed"), arg("dx"));
}

}  // namespace minillm
