// The functions that an instruction set (or another device) offers, one table of pointers for each.
// All arrays are contiguous and of float unless said; sizes and shapes have been checked by the
// caller. Inputs are never written, outputs are written completely.
#pragma once

#include <stdint.h>

namespace minillm {

// A matrix in the caller's memory; strides count elements and may be 0 or negative.
struct Matrix {
    const float* data;
    int64_t rows, cols, row_stride, col_stride;
};

#define MINILLM_KERNELS(X)                                                                 \
    /* out[i] = a[i] · b[i]; entry i of each batch starts at data + offsets[i] */         \
    X(matmul_forward, (const Matrix& a, const int64_t* a_offsets, const Matrix& b,         \
                       const int64_t* b_offsets, int64_t batch, float* out))               \
    /* x (n, k), weight (m, k), bias (m) or null, out (n, m) */                            \
    X(linear_forward, (const float* x, const float* weight, const float* bias, int64_t n,  \
                       int64_t m, int64_t k, float* out))                                  \
    /* outputs that are null are not computed */                                           \
    X(linear_backward, (const float* grad, const float* x, const float* weight, int64_t n, \
                        int64_t m, int64_t k, float* dx, float* dweight, float* dbias))    \
    X(all_finite, (const float* x, int64_t n, bool* out))

struct Kernels {
    const char* isa;
#define MINILLM_DECLARE(name, arguments) void(*name) arguments;
    MINILLM_KERNELS(MINILLM_DECLARE)
#undef MINILLM_DECLARE
};

}  // namespace minillm
