// The checks that stand between a caller's arrays and a kernel's pointers.
#pragma once

#include <array>
#include <initializer_list>
#include <optional>
#include <string>

#include "array.h"
#include "kernels.h"

namespace minillm {

std::string shape_of(const Array& a);  // as Python writes it

// The arguments of one call; every failure is a std::invalid_argument beginning with the operation.
class Arguments {
 public:
    using Shape = std::initializer_list<int64_t>;

    explicit Arguments(const char* operation) : operation_(operation) {}

    [[noreturn]] void fail(const std::string& fact) const;

    // The sizes of an array of N axes.
    template <int N>
    std::array<int64_t, N> sizes(const Array& a, const char* name) const {
        require_rank(a, name, N);
        std::array<int64_t, N> result;
        for (int axis = 0; axis < N; axis++) result[axis] = a.shape[axis];
        return result;
    }

    // Contiguous arrays of a certain shape; the optional ones are null if not given.
    const float* input(const Array& a, const char* name, Shape shape) const;
    const float* optional_input(const Array& a, const char* name, Shape shape) const;
    const int64_t* ids(const Array& a, const char* name, Shape shape) const;
    const uint8_t* bytes(const Array& a, const char* name, Shape shape) const;
    float* output(const Array& a, const char* name, Shape shape) const;
    Gradient gradient(const Array& a, bool add, const char* name, Shape shape) const;  // optional

    // Contiguous arrays of any shape with n elements.
    int64_t elements(const Array& a, const char* name) const;
    const float* flat_input(const Array& a, const char* name, int64_t n) const;
    float* flat_output(const Array& a, const char* name, int64_t n) const;
    uint8_t* output_bytes(const Array& a, const char* name, int64_t n) const;
    int8_t* output_signed_bytes(const Array& a, const char* name, int64_t n) const;

    // Every id is in [0, limit) or is the ignored one; else throws std::out_of_range. Those on a
    // device are not looked at: the operation has checked what came from the host, and a kernel
    // for a device must bear any id.
    void require_ids(const int64_t* ids, int64_t n, const char* name, int64_t limit,
                     std::optional<int64_t> ignored = {}) const;
    void require_probability(double p, const char* name) const;

    void require_rank(const Array& a, const char* name, int ndim) const;
    void require_shape(const Array& a, const char* name, Shape shape) const;  // and rank
    void require_type(const Array& a, const char* name, Type type) const;
    void require_contiguous(const Array& a, const char* name) const;
    void require_writable(const Array& a, const char* name) const;  // and aligned

 private:
    void require_flat(const Array& a, const char* name, int64_t n, Type type) const;
    void* contiguous(const Array& a, const char* name, Type type, Shape shape) const;

    const char* operation_;
};

}  // namespace minillm
