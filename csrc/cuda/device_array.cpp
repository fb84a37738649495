#include <pybind11/stl.h>

#include <string>

#include "../array.h"

namespace minillm {
namespace {

thread_local cudaStream_t stream = nullptr;

bool is_contiguous(const Array& a, pybind11::ssize_t size) {
    for (int axis = 0; axis < a.ndim; axis++)
        if (a.shape[axis] == 0) return true;
    for (int axis = a.ndim - 1; axis >= 0; axis--) {
        if (a.shape[axis] != 1 && a.strides[axis] != size) return false;
        size *= a.shape[axis];
    }
    return true;
}

}  // namespace

cudaStream_t current_stream() { return stream; }
void set_current_stream(cudaStream_t wanted) { stream = wanted; }

void describe_device_array(Array& value, pybind11::handle source, const pybind11::dict& interface) {
    using pybind11::ssize_t;
    const auto type = interface["typestr"].cast<std::string>();  // "<f4"
    const ssize_t size = std::stoll(type.substr(2));
    if (type[0] == '<' || type[0] == '|') value.type = type_of(type[1], size);
    const auto data = interface["data"].cast<pybind11::tuple>();
    value.given = true;
    value.data = reinterpret_cast<void*>(data[0].cast<uintptr_t>());
    value.writable = !data[1].cast<bool>();
    value.aligned = reinterpret_cast<uintptr_t>(value.data) % static_cast<size_t>(size) == 0;
    if (!value.aligned)
        throw pybind11::value_error(
            "an array on the GPU is not aligned in memory, its elements "
            "must lie at multiples of their size");
    value.source = pybind11::reinterpret_borrow<pybind11::object>(source);
    auto sizes = interface["shape"].cast<std::vector<ssize_t>>();
    value.ndim = static_cast<int>(sizes.size());
    if (interface.contains("strides") && !interface["strides"].is_none()) {
        for (const auto step : interface["strides"].cast<pybind11::tuple>())
            sizes.push_back(step.cast<ssize_t>());
    } else {
        sizes.resize(2 * value.ndim);
        for (ssize_t axis = value.ndim - 1, step = size; axis >= 0; axis--) {
            sizes[value.ndim + axis] = step;
            step *= sizes[axis];
        }
    }
    value.sizes = std::make_shared<std::vector<ssize_t>>(std::move(sizes));
    value.shape = value.sizes->data();
    value.strides = value.shape + value.ndim;
    value.contiguous = is_contiguous(value, size);
    if (interface.contains("stream") && !interface["stream"].is_none())
        stream = reinterpret_cast<cudaStream_t>(interface["stream"].cast<uintptr_t>());
}

}  // namespace minillm
