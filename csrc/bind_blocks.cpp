#include <string>

#include "bindings.h"

namespace minillm {

namespace {

void block_linear_forward(int kind, const Array& blocks, const Array& x, const Array& bias,
                          const Array& residual, const Array& out) {
    const Arguments args("block_linear_forward");
    const BlockSize size = block_size(args, kind);
    const auto [n, k] = args.sizes<2>(x, "x");
    const auto [m, row_bytes] = args.sizes<2>(blocks, "blocks");
    if (k % size.numbers)
        args.fail("x has rows of " + std::to_string(k) + ", a multiple of " +
                  std::to_string(size.numbers) + " is needed");
    const auto* blocks_data = args.bytes(blocks, "blocks", {m, k / size.numbers * size.bytes});
    const auto* x_data = args.input(x, "x", {n, k});
    const auto* bias_data = args.optional_input(bias, "bias", {m});
    const auto* residual_data = args.optional_input(residual, "residual", {n, m});
    auto* out_data = args.output(out, "out", {n, m});
    const Unlocked unlocked;
    const BlockProduct product{kind, blocks_data, x_data, bias_data, residual_data,
                               n,    m,           k,      out_data};
    kernels().block_linear_forward(&product, 1);
}

}  // namespace

void bind_blocks(pybind11::module_& module) {
    using pybind11::arg;
    module.def("block_linear_forward", block_linear_forward, arg("kind"), arg("blocks"), arg("x"),
               arg("bias"), arg("residual"), arg("out"));
}

}  // namespace minillm
