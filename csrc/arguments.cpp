#include "arguments.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace minillm {
namespace {

const char* name_of(Type type) {
    switch (type) {
        case Type::float32:
            return "float32";
        case Type::int64:
            return "int64";
        case Type::boolean:
            return "bool";
        case Type::bytes:
            return "uint8";
        case Type::signed_bytes:
            return "int8";
        case Type::other:
            break;
    }
    return "of another dtype";
}

std::string text(const int64_t* sizes, int count) {
    std::string result = "(";
    for (int i = 0; i < count; i++) result += (i ? ", " : "") + std::to_string(sizes[i]);
    return result + (count == 1 ? ",)" : ")");
}

}  // namespace

std::string shape_of(const Array& a) {
    return text(std::vector<int64_t>(a.shape, a.shape + a.ndim).data(), a.ndim);
}

void Arguments::fail(const std::string& fact) const {
    throw std::invalid_argument(std::string(operation_) + ": " + fact);
}

void Arguments::require_rank(const Array& a, const char* name, int ndim) const {
    if (!a.given) fail(std::string(name) + " is None, an array is needed");
    if (a.ndim != ndim)
        fail(std::string(name) + " has " + std::to_string(a.ndim) + " axes, " +
             std::to_string(ndim) + " are needed");
}

void Arguments::require_type(const Array& a, const char* name, Type type) const {
    if (a.type != type)
        fail(std::string(name) + " is " + name_of(a.type) + ", " + name_of(type) + " is needed");
}

void Arguments::require_contiguous(const Array& a, const char* name) const {
    if (!a.contiguous)
        fail(std::string(name) + " is not C-contiguous, a contiguous copy is needed");
}

void Arguments::require_writable(const Array& a, const char* name) const {
    if (!a.writable) fail(std::string(name) + " is read-only, a writable array is needed");
    if (!a.aligned)
        fail(std::string(name) + " is not aligned in memory, an aligned array is needed");
}

void Arguments::require_shape(const Array& a, const char* name, Shape shape) const {
    require_rank(a, name, static_cast<int>(shape.size()));
    if (!std::equal(shape.begin(), shape.end(), a.shape))
        fail(std::string(name) + " has shape " + shape_of(a) + ", " +
             text(shape.begin(), static_cast<int>(shape.size())) + " is needed");
}

void* Arguments::contiguous(const Array& a, const char* name, Type type, Shape shape) const {
    require_shape(a, name, shape);
    require_type(a, name, type);
    require_contiguous(a, name);
    return a.data;
}

const float* Arguments::input(const Array& a, const char* name, Shape shape) const {
    return static_cast<const float*>(contiguous(a, name, Type::float32, shape));
}

const float* Arguments::optional_input(const Array& a, const char* name, Shape shape) const {
    return a.given ? input(a, name, shape) : nullptr;
}

const int64_t* Arguments::ids(const Array& a, const char* name, Shape shape) const {
    return static_cast<const int64_t*>(contiguous(a, name, Type::int64, shape));
}

const uint8_t* Arguments::bytes(const Array& a, const char* name, Shape shape) const {
    return static_cast<const uint8_t*>(contiguous(a, name, Type::bytes, shape));
}

float* Arguments::output(const Array& a, const char* name, Shape shape) const {
    void* data = contiguous(a, name, Type::float32, shape);
    require_writable(a, name);
    return static_cast<float*>(data);
}

Gradient Arguments::gradient(const Array& a, bool add, const char* name, Shape shape) const {
    return {a.given ? output(a, name, shape) : nullptr, add};
}

int64_t Arguments::elements(const Array& a, const char* name) const {
    if (!a.given) fail(std::string(name) + " is None, an array is needed");
    int64_t count = 1;
    for (int axis = 0; axis < a.ndim; axis++) count *= a.shape[axis];
    return count;
}

void Arguments::require_flat(const Array& a, const char* name, int64_t n, Type type) const {
    const int64_t count = elements(a, name);
    require_type(a, name, type);
    if (count != n)
        fail(std::string(name) + " has " + std::to_string(count) + " elements, " +
             std::to_string(n) + " are needed");
    require_contiguous(a, name);
}

const float* Arguments::flat_input(const Array& a, const char* name, int64_t n) const {
    require_flat(a, name, n, Type::float32);
    return static_cast<const float*>(a.data);
}

float* Arguments::flat_output(const Array& a, const char* name, int64_t n) const {
    require_flat(a, name, n, Type::float32);
    require_writable(a, name);
    return static_cast<float*>(a.data);
}

uint8_t* Arguments::output_bytes(const Array& a, const char* name, int64_t n) const {
    require_flat(a, name, n, Type::bytes);
    require_writable(a, name);
    return static_cast<uint8_t*>(a.data);
}

int8_t* Arguments::output_signed_bytes(const Array& a, const char* name, int64_t n) const {
    require_flat(a, name, n, Type::signed_bytes);
    require_writable(a, name);
    return static_cast<int8_t*>(a.data);
}

void Arguments::require_ids(const int64_t* ids, int64_t n, const char* name, int64_t limit,
                            std::optional<int64_t> ignored) const {
    if constexpr (on_device) return;
    for (int64_t i = 0; i < n; i++)
        if ((ids[i] < 0 || ids[i] >= limit) && ids[i] != ignored)
            throw std::out_of_range(std::string(operation_) + ": " + name + "[" +
                                    std::to_string(i) + "] is " + std::to_string(ids[i]) +
                                    ", ids from 0 to " + std::to_string(limit - 1) + " are needed");
}

void Arguments::require_probability(double p, const char* name) const {
    if (!(p >= 0 && p <= 1))
        fail(std::string(name) + " is " + std::to_string(p) + ", a number from 0 to 1 is needed");
}

}  // namespace minillm
