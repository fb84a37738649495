#include <pybind11/stl.h>

#include "bindings.h"

namespace minillm {
namespace {

void cross_entropy_forward(const Array& logits, const Array& target, int64_t ignore_index,
                           double label_smoothing, const Array& losses, const Array& lse) {
    const Arguments args("cross_entropy_forward");
    const auto [rows, classes] = args.sizes<2>(logits, "logits");
    const auto* logits_data = args.input(logits, "logits", {rows, classes});
    const auto* target_data = args.ids(target, "target", {rows});
    args.require_ids(target_data, rows, "target", classes, ignore_index);
    auto* losses_data = args.output(losses, "losses", {rows});
    auto* lse_data = args.output(lse, "lse", {rows});
    const Unlocked unlocked;
    kernels().cross_entropy_forward(logits_data, target_data, rows, classes, ignore_index,
                                    static_cast<float>(label_smoothing), losses_data, lse_data);
}

void cross_entropy_backward(const Array& grad, const Array& logits, const Array& target,
                            const Array& lse, int64_t ignore_index, double label_smoothing,
                            const Array& dlogits) {
    const Arguments args("cross_entropy_backward");
    const auto [rows, classes] = args.sizes<2>(logits, "logits");
    const auto* grad_data = args.input(grad, "grad", {rows});
    const auto* logits_data = args.input(logits, "logits", {rows, classes});
    const auto* target_data = args.ids(target, "target", {rows});
    args.require_ids(target_data, rows, "target", classes, ignore_index);
    const auto* lse_data = args.input(lse, "lse", {rows});
    auto* dlogits_data = args.output(dlogits, "dlogits", {rows, classes});
    const Unlocked unlocked;
    kernels().cross_entropy_backward(grad_data, logits_data, target_data, lse_data, rows, classes,
                                     ignore_index, static_cast<float>(label_smoothing),
                                     dlogits_data);
}

void linear_cross_entropy_forward(const Array& x, const Array& weight, const Array& target,
                                  int64_t ignore_index, double label_smoothing, const Array& losses,
                                  const Array& lse, const Array& kept) {
    const Arguments args("linear_cross_entropy_forward");
    const auto [rows, k] = args.sizes<2>(x, "x");
    const auto classes = args.sizes<2>(weight, "weight")[0];
    const auto* x_data = args.input(x, "x", {rows, k});
    const auto* weight_data = args.input(weight, "weight", {classes, k});
    const auto* target_data = args.ids(target, "target", {rows});
    args.require_ids(target_data, rows, "target", classes, ignore_index);
    auto* losses_data = args.output(losses, "losses", {rows});
    auto* lse_data = args.output(lse, "lse", {rows});
    const auto kept_classes = args.sizes<2>(kept, "kept")[0];
    auto* kept_data = args.output(kept, "kept", {kept_classes, rows});
    const Unlocked unlocked;
    kernels().linear_cross_entropy_forward(x_data, weight_data, target_data, rows, classes, k,
                                           ignore_index, static_cast<float>(label_smoothing),
                                           losses_data, lse_data, kept_data, kept_classes);
}

void linear_cross_entropy_backward(const Array& grad, const Array& x, const Array& weight,
                                   const Array& target, const Array& lse, const Array& kept,
                                   int64_t ignore_index, double label_smoothing, const Array& dx,
                                   const Array& dweight, std::array<bool, 2> add) {
    const Arguments args("linear_cross_entropy_backward");
    const auto [rows, k] = args.sizes<2>(x, "x");
    const auto classes = args.sizes<2>(weight, "weight")[0];
    const auto* grad_data = args.input(grad, "grad", {rows});
    const auto* x_data = args.input(x, "x", {rows, k});
    const auto* weight_data = args.input(weight, "weight", {classes, k});
    const auto* target_data = args.ids(target, "target", {rows});
    args.require_ids(target_data, rows, "target", classes, ignore_index);
    const auto* lse_data = args.input(lse, "lse", {rows});
    const auto kept_classes = args.sizes<2>(kept, "kept")[0];
    const auto* kept_data = args.input(kept, "kept", {kept_classes, rows});
    const Gradient to_x = args.gradient(dx, add[0], "dx", {rows, k});
    const Gradient to_weight = args.gradient(dweight, add[1], "dweight", {classes, k});
    const Unlocked unlocked;
    kernels().linear_cross_entropy_backward(grad_data, x_data, weight_data, target_data, lse_data,
                                            kept_data, kept_classes, rows, classes, k, ignore_index,
                                            static_cast<float>(label_smoothing), to_x, to_weight);
}

}  // namespace

void bind_loss(pybind11::module_& module) {
    using pybind11::arg;
    module.def("cross_entropy_forward", cross_entropy_forward, arg("logits"), arg("target"),
               arg("ignore_index"), arg("label_smoothing"), arg("losses"), arg("lse"));
    module.def("cross_entropy_backward", cross_entropy_backward, arg("grad"), arg("logits"),
               arg("target"), arg("lse"), arg("ignore_index"), arg("label_smoothing"),
               arg("dlogits"));
    module.def("linear_cross_entropy_forward", linear_cross_entropy_forward, arg("x"),
               arg("weight"), arg("target"), arg("ignore_index"), arg("label_smoothing"),
               arg("losses"), arg("lse"), arg("kept"));
    module.def("linear_cross_entropy_backward", linear_cross_entropy_backward, arg("grad"),
               arg("x"), arg("weight"), arg("target"), arg("lse"), arg("kept"), arg("ignore_index"),
               arg("label_smoothing"), arg("dx"), arg("dweight"), arg("add"));
}

}  // namespace minillm
