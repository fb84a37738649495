// An array as pybind11 hands it over. Nothing is converted, and only what is not aligned in memory
// is copied: kernels may not read it where it lies.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <string>

namespace minillm {

enum class Type { float32, int64, boolean, bytes, other };

// A view of the caller's array, valid while the call lasts; None is an array that is not given.
struct Array {
    bool given = false;
    void* data = nullptr;
    int ndim = 0;
    const pybind11::ssize_t *shape = nullptr, *strides = nullptr;  // strides in bytes
    Type type = Type::other;
    bool contiguous = false, aligned = false, writable = false;
    pybind11::object source;  // owns the data: the caller's array, or a copy if that is not aligned
};

}  // namespace minillm

template <>
struct pybind11::detail::type_caster<minillm::Array> {
    PYBIND11_TYPE_CASTER(minillm::Array, const_name("numpy.ndarray | None"));

    bool load(handle source, bool /* convert */) {
        if (source.is_none()) return true;
        if (!isinstance<array>(source))
            throw type_error(std::string("an array or None is needed, ") +
                             Py_TYPE(source.ptr())->tp_name + " was given");
        auto a = reinterpret_borrow<array>(source);
        value.given = true;
        value.aligned = (a.flags() & npy_api::NPY_ARRAY_ALIGNED_) != 0;
        value.writable = a.writeable();
        if (!value.aligned) a = a.attr("copy")();
        value.source = a;
        value.data = const_cast<void*>(a.data());
        value.ndim = static_cast<int>(a.ndim());
        value.shape = a.shape();
        value.strides = a.strides();
        value.type = type_of(a.dtype());
        value.contiguous = (a.flags() & array::c_style) != 0;
        return true;
    }

 private:
    static minillm::Type type_of(const dtype& type) {
        const char kind = type.kind(), order = type.byteorder();
        if (order != '=' && order != '|') return minillm::Type::other;
        if (kind == 'f' && type.itemsize() == 4) return minillm::Type::float32;
        if (kind == 'i' && type.itemsize() == 8) return minillm::Type::int64;
        if (kind == 'u' && type.itemsize() == 1) return minillm::Type::bytes;
        return kind == 'b' ? minillm::Type::boolean : minillm::Type::other;
    }
};
