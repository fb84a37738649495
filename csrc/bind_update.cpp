// What an optimiser's step does to all parameters: the gradient's norm, update rules, averages.
#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "bindings.h"

namespace minillm {
namespace {

// make(the first of its arrays) of each parameter, whose arrays come in groups called `names`.
template <class Make>
auto in_groups(const Arguments& args, const std::vector<Array>& arrays, size_t each,
               const char* names, const Make& make) {
    if (arrays.size() % each != 0)
        args.fail(std::to_string(arrays.size()) + " arrays, " + names +
                  " of every parameter are needed");
    std::vector<decltype(make(arrays.data()))> groups;
    groups.reserve(arrays.size() / each);
    for (size_t i = 0; i < arrays.size(); i += each) groups.push_back(make(arrays.data() + i));
    return groups;
}

AdamW settings_of(const Arguments& args, double lr, double beta1, double beta2, double eps,
                  double weight_decay, int64_t step, double grad_scale) {
    if (step < 1) args.fail("step is " + std::to_string(step) + ", at least 1 is needed");
    return {lr, beta1, beta2, eps, weight_decay, grad_scale, step};
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
    const auto parameters =
        in_groups(args, arrays, 4, "param, grad, m and v", [&](const Array* a) -> Moments {
            const auto n = args.elements(a[0], "param");
            return {args.flat_output(a[0], "param", n), args.flat_input(a[1], "grad", n),
                    args.flat_output(a[2], "m", n), args.flat_output(a[3], "v", n), n};
        });
    const AdamW s = settings_of(args, lr, beta1, beta2, eps, weight_decay, step, grad_scale);
    const Unlocked unlocked;
    kernels().adamw_forward(parameters.data(), static_cast<int64_t>(parameters.size()), s);
}

void adamw8bit_forward(const std::vector<Array>& arrays, double lr, double beta1, double beta2,
                       double eps, double weight_decay, int64_t step, double grad_scale) {
    const Arguments args("adamw8bit_forward");
    const auto parameters = in_groups(args, arrays, 6, "param, grad, m, m_scale, v and v_scale",
                                      [&](const Array* a) -> Moments8bit {
                                          const auto n = args.elements(a[0], "param");
                                          const auto scales =
                                              (n + moments_of_scale - 1) / moments_of_scale;
                                          return {args.flat_output(a[0], "param", n),
                                                  args.flat_input(a[1], "grad", n),
                                                  args.output_signed_bytes(a[2], "m", n),
                                                  args.flat_output(a[3], "m_scale", scales),
                                                  args.output_bytes(a[4], "v", n),
                                                  args.flat_output(a[5], "v_scale", scales),
                                                  n};
                                      });
    const AdamW s = settings_of(args, lr, beta1, beta2, eps, weight_decay, step, grad_scale);
    const Unlocked unlocked;
    kernels().adamw8bit_forward(parameters.data(), static_cast<int64_t>(parameters.size()), s);
}

void sgd_forward(const std::vector<Array>& arrays, double lr, double momentum, double weight_decay,
                 double grad_scale) {
    const Arguments args("sgd_forward");
    const auto parameters =
        in_groups(args, arrays, 3, "param, grad and momentum_buffer", [&](const Array* a) -> Sums {
            const auto n = args.elements(a[0], "param");
            return {args.flat_output(a[0], "param", n), args.flat_input(a[1], "grad", n),
                    args.flat_output(a[2], "momentum_buffer", n), n};
        });
    const Unlocked unlocked;
    kernels().sgd_forward(parameters.data(), static_cast<int64_t>(parameters.size()),
                          {lr, momentum, weight_decay, grad_scale});
}

void lerp_forward(const std::vector<Array>& arrays, double weight) {
    const Arguments args("lerp_forward");
    const auto pairs = in_groups(args, arrays, 2, "start and end", [&](const Array* a) -> Way {
        const auto n = args.elements(a[0], "start");
        return {args.flat_output(a[0], "start", n), args.flat_input(a[1], "end", n), n};
    });
    const Unlocked unlocked;
    kernels().lerp_forward(pairs.data(), static_cast<int64_t>(pairs.size()), weight);
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

void bind_update(pybind11::module_& module) {
    using pybind11::arg;
    module.def("norm_forward", norm_forward, arg("arrays"), arg("out"));
    module.def("adamw_forward", adamw_forward, arg("arrays"), arg("lr"), arg("beta1"), arg("beta2"),
               arg("eps"), arg("weight_decay"), arg("step"), arg("grad_scale"));
    module.def("adamw8bit_forward", adamw8bit_forward, arg("arrays"), arg("lr"), arg("beta1"),
               arg("beta2"), arg("eps"), arg("weight_decay"), arg("step"), arg("grad_scale"));
    module.def("sgd_forward", sgd_forward, arg("arrays"), arg("lr"), arg("momentum"),
               arg("weight_decay"), arg("grad_scale"));
    module.def("lerp_forward", lerp_forward, arg("arrays"), arg("weight"));
    module.def("muon_forward", muon_forward, arg("arrays"), arg("scales"), arg("lr"),
               arg("momentum"), arg("nesterov"), arg("weight_decay"), arg("steps"), arg("quintic"),
               arg("eps"), arg("grad_scale"));
}

}  // namespace minillm
