#include "bindings.h"

namespace minillm {
namespace {

// Rows (rows, d) turned by the angles (positions, half) of row i % positions.
void rotary_forward(const Array& x, const Array& cos, const Array& sin, bool interleaved,
                    const Array& out) {
    const Arguments args("rotary_embedding_forward");
    const auto [rows, d] = args.sizes<2>(x, "x");
    const auto [positions, half] = args.sizes<2>(cos, "cos");
    if (2 * half > d || (rows > 0 && (positions == 0 || rows % positions != 0)))
        args.fail("x has shape " + shape_of(x) + " and cos " + shape_of(cos) +
                  ", rows a multiple of the positions and at least twice the angles are needed");
    const auto* x_data = args.input(x, "x", {rows, d});
    const auto* cos_data = args.input(cos, "cos", {positions, half});
    const auto* sin_data = args.input(sin, "sin", {positions, half});
    auto* out_data = args.output(out, "out", {rows, d});
    const Unlocked unlocked;
    if (rows > 0 && d > 0)
        kernels().rotary_forward(x_data, cos_data, sin_data, rows, positions, d, half, interleaved,
                                 out_data);
}

}  // namespace

void bind_rotary(pybind11::module_& module) {
    using pybind11::arg;
    module.def("rotary_embedding_forward", rotary_forward, arg("x"), arg("cos"), arg("sin"),
               arg("interleaved"), arg("out"));
}

}  // namespace minillm
