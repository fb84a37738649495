// The module minillm._cpu: the operations of every family, and what governs how they run.
#include <pybind11/stl.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "cpu/isa.h"
#include "parallel.h"
#include "precision.h"

namespace minillm {
namespace {

bool all_finite(const Array& x) {
    const Arguments args("all_finite");
    std::vector<int64_t> shape{args.elements(x, "x")}, strides{1};
    args.require_type(x, "x", Type::float32);
    if (!x.contiguous) {  // so it has an axis
        shape.assign(x.shape, x.shape + x.ndim);
        strides.clear();
        for (int axis = 0; axis < x.ndim; axis++) strides.push_back(x.strides[axis] / 4);
    }
    bool finite = true;
    const Unlocked unlocked;
    kernels().all_finite({static_cast<const float*>(x.data), static_cast<int64_t>(shape.size()),
                          shape.data(), strides.data()},
                         &finite);
    return finite;
}

constexpr int most_threads = 4096;

void set_threads(int count) {
    if (count < 1 || count > most_threads)
        throw std::invalid_argument("set_threads: " + std::to_string(count) +
                                    " threads were asked for, 1 to " +
                                    std::to_string(most_threads) + " are possible");
    set_thread_count(count);
}

// Null if not set, or set to nothing.
const char* environment(const char* name) {
    const char* value = std::getenv(name);
    return value && *value ? value : nullptr;
}

// Throws what makes the import fail with one line.
void read_environment() {
    kernels();
    if (const char* isa = environment("MINILLM_ISA")) {
        try {
            set_isa(isa);
        } catch (const std::invalid_argument& error) {
            throw std::runtime_error(std::string("MINILLM_ISA: ") + error.what());
        }
    }
    if (const char* threads = environment("MINILLM_THREADS")) {
        char* end = nullptr;
        const long count = std::strtol(threads, &end, 10);
        if (*end || count < 1 || count > most_threads)
            throw std::runtime_error(std::string("MINILLM_THREADS: '") + threads +
                                     "' is not a whole number from 1 to " +
                                     std::to_string(most_threads));
        set_thread_count(static_cast<int>(count));
    }
}

void bind_runtime(pybind11::module_ runtime) {
    using pybind11::arg;
    runtime.def("threads", thread_count, "Threads that the kernels use.");
    runtime.def("set_threads", set_threads, arg("count"));
    runtime.def("isa", [] { return kernels().isa; }, "Instruction set in use.");
    runtime.def("available_isas", available_isas, "Instruction sets this processor runs.");
    runtime.def("set_isa", set_isa, arg("name"));
    runtime.def(
        "has_bf16", [] { return kernels().bf16; },
        "Whether this instruction set multiplies bfloat16.");
    runtime.def("bf16", bf16_products, "Whether matrix products use bfloat16 where they can.");
    runtime.def("set_bf16", set_bf16_products, arg("wanted"));
    runtime.attr("many_rows") = many_rows;
    runtime.def("all_finite", all_finite, arg("x"), "No infinity and no NaN in x.");
    bind_arena(runtime);
    bind_peaks(runtime);
    bind_plan(runtime);
}

}  // namespace
}  // namespace minillm

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "Kernels for the CPU; the operations of minillm.ops call them.";
    minillm::read_environment();
    minillm::bind_activation(module);
    minillm::bind_attention(module);
    minillm::bind_blocks(module);
    minillm::bind_linear(module);
    minillm::bind_loss(module);
    minillm::bind_norm(module);
    minillm::bind_rotary(module);
    minillm::bind_softmax(module);
    minillm::bind_training(module);
    minillm::bind_update(module);
    minillm::bind_runtime(module.def_submodule("runtime", "Threads, instruction sets, memory."));
}
