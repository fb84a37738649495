// The module minillm._cuda (or _cuda_on_host, where the host plays the device): the operations that
// have a kernel for the GPU, under the names and with the contract of _cpu.
#include <pybind11/stl.h>

#include <memory>

#include "bindings.h"
#include "cuda/bind_open_blocks.h"
#include "cuda/bind_products.h"
#include "cuda/launch.h"
#include "cuda/plan_device.h"
#include "precision.h"
#ifdef MINILLM_CUDA_ON_HOST
#include "check/static_shared.h"
#include "check/wrong_kernels.h"
#endif

namespace minillm {
namespace {

// Functions without a kernel; the operation is then left to its definition.
void leave_out(pybind11::module_& module) {
#define MINILLM_LEAVE_OUT(name, arguments) \
    if (!kernels().name && pybind11::hasattr(module, #name)) pybind11::delattr(module, #name);
    MINILLM_KERNELS(MINILLM_LEAVE_OUT)
#undef MINILLM_LEAVE_OUT
}

// The Python function `room` is called and let go of with the interpreter's lock.
void ask(const pybind11::object& room, bool bounded) {
    if (room.is_none()) return ask_for_room(nullptr, false);
    const std::shared_ptr<pybind11::object> held(new pybind11::object(room), [](auto* object) {
        const pybind11::gil_scoped_acquire acquired;
        delete object;
    });
    ask_for_room(
        [held](size_t bytes, int refused) {
            const pybind11::gil_scoped_acquire acquired;
            (*held)(bytes, refused);
        },
        bounded);
}

void bind_runtime(pybind11::module_ runtime) {
    using pybind11::arg;
    runtime.def(
        "has_bf16", [] { return kernels().bf16; }, "Whether matrix products may use bfloat16.");
    runtime.def("bf16", bf16_products, "Whether matrix products use bfloat16.");
    runtime.def("set_bf16", set_bf16_products, arg("wanted"));
    runtime.def("has_products", has_products, "Whether cuBLASLt was found.");
    runtime.def("graphs", device::keeps_graphs, "Whether token steps are repeated as graphs.");
    runtime.def("set_graphs", device::set_keeps_graphs, arg("wanted"));
    runtime.attr("keeps_logits") = false;
    runtime.attr("many_rows") = many_rows;
    runtime.def(
        "scratch_bytes",
        [] {
            const PoolBytes found = pool_bytes();
            return std::pair(found.used, found.reserved);
        },
        "Bytes that kernels use of the current GPU beside arrays, and those held for them.");
    runtime.def("trim_scratch", trim_pool, pybind11::call_guard<pybind11::gil_scoped_release>(),
                "Gives back what is held and not used. Waits for the GPU.");
    runtime.def("ask_for_room", ask, arg("room"), arg("bounded"),
                "room(bytes, refused) is called before kernels take more memory if `bounded`, and "
                "where there is none.");
    runtime.attr("windows") = true;         // attention takes one,
    runtime.attr("mask_gradients") = true;  // and gives gradients of what a mask adds
#ifdef MINILLM_CUDA_ON_HOST
    runtime.def("set_order", on_host::set_order, arg("seed"),
                "Blocks and threads run in an order drawn from `seed`; 0: as they are numbered.");
    runtime.def("set_most_bytes", on_host::set_most_bytes, arg("bytes"),
                "An allocation of more fails.");
    runtime.attr("fills_static_shared") = on_host::fills_static_shared;
    runtime.def("run_wrong_kernel", on_host::run_wrong_kernel, arg("name"));
#endif
}

#ifdef MINILLM_CUDA_ON_HOST
void bind_capture(pybind11::module_ module) {
    using on_host::Recording;
    pybind11::class_<Recording, std::shared_ptr<Recording>>(module, "Recording",
                                                            "Work of a stream that is kept.")
        .def("run", &Recording::run, pybind11::call_guard<pybind11::gil_scoped_release>());
    module.def("begin_capture", on_host::begin_capture,
               "What this thread asks of any stream is kept from now on.");
    module.def("cut", on_host::cut, "What was kept since the beginning or the last cut.");
    module.def("end_capture", on_host::end_capture, "What was kept since the last cut.");
    module.def("graphs", on_host::graphs, "How many graphs there are now.");
    module.def("launched_graphs", on_host::launched_graphs, "How often a graph was launched.");
    module.def("asked", on_host::asked, "How many launches, products and copies there were.");
    module.def("refuse_captures", on_host::refuse_captures, pybind11::arg("refused"),
               "Streams cannot be captured.");
}
#endif

}  // namespace
}  // namespace minillm

PYBIND11_MODULE(MINILLM_MODULE, module) {
    module.doc() = "Kernels for the GPU; the operations of minillm.ops call them.";
    minillm::bind_activation(module);
    minillm::bind_attention(module);
    minillm::bind_linear(module);
    minillm::bind_blocks(module);
    minillm::bind_loss(module);
    minillm::bind_norm(module);
    minillm::bind_rotary(module);
    minillm::bind_softmax(module);
    minillm::bind_training(module);
    minillm::bind_update(module);
    minillm::leave_out(module);
    minillm::bind_open_blocks(module);
    minillm::offer_products(module);
    pybind11::module_ runtime = module.def_submodule("runtime", "Precision, token steps.");
    minillm::bind_runtime(runtime);
    minillm::bind_plan(runtime);
#ifdef MINILLM_CUDA_ON_HOST
    minillm::bind_capture(module.def_submodule("on_host", "Captures of the device."));
#endif
}
