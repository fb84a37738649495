// The functions of every family under the names that all devices share: each checks its arguments,
// lets the interpreter go on with other threads and calls the kernels in use.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "arguments.h"
#include "block_size.h"
#include "kernels.h"
#ifndef MINILLM_ON_DEVICE
#include "platform.h"
#endif

namespace minillm {

const Kernels& kernels();

// Fails for a type that has no kernel.
inline BlockSize block_size(const Arguments& args, int kind) {
    const BlockSize size = size_of_kind(kind);
    if (!size.numbers)
        args.fail("blocks of type " + std::to_string(kind) + ", one that has a kernel is needed");
    return size;
}

// While a kernel runs: other Python threads may go on, and for a processor denormals are 0.
struct Unlocked {
    pybind11::gil_scoped_release released;
#ifndef MINILLM_ON_DEVICE
    FlushDenormals flush;
#endif
};

void bind_activation(pybind11::module_& module);
void bind_arena(pybind11::module_& runtime);
void bind_attention(pybind11::module_& module);
void bind_blocks(pybind11::module_& module);
void bind_linear(pybind11::module_& module);
void bind_loss(pybind11::module_& module);
void bind_norm(pybind11::module_& module);
void bind_peaks(pybind11::module_& runtime);
void bind_plan(pybind11::module_& runtime);
void bind_rotary(pybind11::module_& module);
void bind_softmax(pybind11::module_& module);
void bind_training(pybind11::module_& module);
void bind_update(pybind11::module_& module);

}  // namespace minillm
