// An array as pybind11 hands it over: one of NumPy, or one on the device where this file is
// compiled for a device's library. Nothing is converted, and only what is not aligned in memory is
// copied (by NumPy): kernels may not read it where it lies.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#ifdef MINILLM_ON_DEVICE
#include "cuda/launch.h"
#endif

namespace minillm {

#ifdef MINILLM_ON_DEVICE
constexpr bool on_device = true;  // the host cannot read what arrays hold
#else
constexpr bool on_device = false;
#endif

enum class Type { float32, int64, boolean, bytes, signed_bytes, other };

// A view of the caller's array, valid while the call lasts; None is an array that is not given.
struct Array {
    bool given = false;
    void* data = nullptr;
    int ndim = 0;
    const pybind11::ssize_t *shape = nullptr, *strides = nullptr;  // strides in bytes
    Type type = Type::other;
    bool contiguous = false, aligned = false, writable = false;
    pybind11::object source;  // owns the data: the caller's array, or a copy if that is not aligned
    std::shared_ptr<std::vector<pybind11::ssize_t>> sizes;  // owns shape and strides if need be
};

inline Type type_of(char kind, pybind11::ssize_t size) {
    if (kind == 'f' && size == 4) return Type::float32;
    if (kind == 'i' && size == 8) return Type::int64;
    if (size == 1 && (kind == 'u' || kind == 'i'))
        return kind == 'u' ? Type::bytes : Type::signed_bytes;
    return kind == 'b' ? Type::boolean : Type::other;
}

// Fills in an array of NumPy.
inline void describe(Array& value, pybind11::array a) {
    using pybind11::array;
    value.given = true;
    value.aligned = (a.flags() & pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
    value.writable = a.writeable();
    if (!value.aligned) a = a.attr("copy")();
    value.source = a;
    value.data = const_cast<void*>(a.data());
    value.ndim = static_cast<int>(a.ndim());
    value.shape = a.shape();
    value.strides = a.strides();
    const char order = a.dtype().byteorder();
    if (order == '=' || order == '|') value.type = type_of(a.dtype().kind(), a.dtype().itemsize());
    value.contiguous = (a.flags() & array::c_style) != 0;
}

// Fills in an array on the device, from what it says in `__cuda_array_interface__`; the stream that
// it names is the one to work on.
void describe_device_array(Array& value, pybind11::handle source, const pybind11::dict& interface);

}  // namespace minillm

template <>
struct pybind11::detail::type_caster<minillm::Array> {
    PYBIND11_TYPE_CASTER(minillm::Array,
                         const_name<minillm::on_device>("cupy.ndarray", "numpy.ndarray") +
                             const_name(" | None"));

    bool load(handle source, bool /* convert */) {
        if (source.is_none()) return true;
        if constexpr (minillm::on_device) {
            const object interface = getattr(source, "__cuda_array_interface__", none());
            if (interface.is_none()) refuse("an array on the GPU", source);
            minillm::describe_device_array(value, source, interface);
        } else {
            if (!isinstance<array>(source)) refuse("an array", source);
            minillm::describe(value, reinterpret_borrow<array>(source));
        }
        return true;
    }

 private:
    [[noreturn]] static void refuse(const std::string& needed, handle source) {
        throw type_error(needed + " or None is needed, " + Py_TYPE(source.ptr())->tp_name +
                         " was given");
    }
};
