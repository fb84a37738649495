#include <string>

#include "bindings.h"
#include "block_size.h"

namespace minillm {

BlockSize block_size(const Arguments& args, int kind) {
    switch (kind) {
        case 0:
            return {1, 4};
        case 1:
        case 30:
            return {1, 2};
        case 2:
            return {32, 18};
        case 3:
            return {32, 20};
        case 6:
            return {32, 22};
        case 7:
            return {32, 24};
        case 8:
            return {32, 34};
        case 12:
            return {256, 144};
        case 13:
            return {256, 176};
        case 14:
            return {256, 210};
    }
    args.fail("blocks of type " + std::to_string(kind) + ", one that has a kernel is needed");
}

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
