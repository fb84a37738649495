// Matrix products on the GPU behind one interface. cuBLASLt does them; what it has no algorithm for
// is done by a plain kernel.
#pragma once

#include <cstdint>

#include "../kernels.h"

namespace minillm::device {

enum class Number : uint8_t { float32, bf16 };

constexpr int64_t size_of(Number number) { return number == Number::bf16 ? 2 : 4; }

// A matrix that lies row by row, `stride` elements apart; taken the other way if `transposed`.
// Those of a batch are `batch_stride` elements apart, or 0 where all take the same.
struct Operand {
    const void* data;
    Number number;
    int64_t stride;
    bool transposed = false;
    int64_t batch_stride = 0;
};

inline Operand transposed(Operand a) {
    a.transposed = !a.transposed;
    return a;
}

// out (rows, cols) = a (rows, depth) · b (depth, cols) + start + bias (cols), for each of a batch
struct Product {
    int64_t rows, cols, depth;
    Operand a, b;
    void* out;
    int64_t stride;                       // from row to row of out
    const float* start = nullptr;         // lies as out does; may be out itself; null: 0
    const float* bias = nullptr;          // null: 0
    Number out_number = Number::float32;  // bf16: without start and bias
    int64_t batch = 1, batch_stride = 0;
};

void multiply(const Product& p);

// c (rows, cols) (+)= a · b where that is wanted.
void multiply_into(Gradient c, int64_t rows, int64_t cols, int64_t depth, const Operand& a,
                   const Operand& b);

// dweight (m, k) (+)= slope^T (m, n) · x (n, k), dbias (m) (+)= the sums of slope's columns
void weight_gradients(const Operand& slope, const Operand& x, int64_t n, int64_t m, int64_t k,
                      Gradient dweight, Gradient dbias);

namespace lt {

// What is done to a product, or to its factors, while they are at hand: no other kernel has to read
// them. `gelu` is the form with tanh.
struct Fused {
    enum Kind : uint8_t { nothing, row_sums, gelu, gelu_slope };
    Kind kind = nothing;
    // row_sums: the sums of a's rows (rows), float32, and no bias. gelu: what GELU gets, written;
    // out is what it gives. gelu_slope: what it got; out is multiplied by its slope there. Both lie
    // as out does, `stride` apart.
    void* data = nullptr;
    int64_t stride = 0;
};

bool available();

// False where cuBLASLt has no algorithm for that; nothing is written then.
bool multiply(const Product& p, const Fused& fused = {});

}  // namespace lt
}  // namespace minillm::device
