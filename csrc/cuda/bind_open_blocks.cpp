#include "bind_open_blocks.h"

#include <string>

#include "../bindings.h"
#include "open_blocks.h"

namespace minillm {
namespace {

void block_embedding_forward(int kind, const Array& blocks, const Array& ids, const Array& out) {
    const Arguments args("block_embedding_forward");
    const BlockSize size = block_size(args, kind);
    const auto [count, k] = args.sizes<2>(out, "out");
    const int64_t rows = args.sizes<2>(blocks, "blocks")[0];
    if (k % size.numbers)
        args.fail("out has rows of " + std::to_string(k) + ", a multiple of " +
                  std::to_string(size.numbers) + " is needed");
    const auto* blocks_data = args.bytes(blocks, "blocks", {rows, k / size.numbers * size.bytes});
    const auto* ids_data = ids.given ? args.ids(ids, "ids", {count}) : nullptr;
    if (!ids.given && count != rows)
        args.fail(std::to_string(rows) + " rows of blocks, " + std::to_string(count) +
                  " of out; without ids as many are needed");
    auto* out_data = args.output(out, "out", {count, k});
    const Unlocked unlocked;
    device::open_blocks({kind, blocks_data, rows, k, ids_data, count}, out_data);
}

}  // namespace

void bind_open_blocks(pybind11::module_& module) {
    using pybind11::arg;
    module.def("block_embedding_forward", block_embedding_forward, arg("kind"), arg("blocks"),
               arg("ids"), arg("out"), "The rows that ids name; without ids, all in order.");
}

}  // namespace minillm
