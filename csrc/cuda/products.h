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

namespace lt {

bool available();

// False where cuBLASLt has no algorithm; nothing is written then.
bool multiply(const Product& p);

}  // namespace lt
}  // namespace minillm::device
