// Matrix products on float32, and the pieces of them that attention and the losses use.
#pragma once

#include "../kernels.h"
#include "tile.h"

namespace minillm::MINILLM_ISA {

INLINE Matrix row_major(const float* data, int64_t rows, int64_t cols) {
    return {data, rows, cols, cols, 1};
}
INLINE Matrix transposed(Matrix m) { return {m.data, m.cols, m.rows, m.col_stride, m.row_stride}; }
INLINE Matrix part(Matrix m, int64_t row, int64_t rows, int64_t col, int64_t cols) {
    return {m.data + row * m.row_stride + col * m.col_stride, rows, cols, m.row_stride,
            m.col_stride};
}

// Rows, or elements, `stride` apart. As the start of a product: null for zero, a bias with stride
// 0, or the output itself to add to it.
struct Strided {
    const float* data = nullptr;
    int64_t stride = 0;
};

INLINE Strided part(Strided s, int64_t row, int64_t col) {
    return {s.data ? s.data + row * s.stride + col : nullptr, s.stride};
}

// c = start + a · b; c has contiguous rows c_stride apart. Runs on the pool.
void gemm(const Matrix& a, const Matrix& b, Strided start, float* c, int64_t c_stride);

// out = start + x · v. Runs on the pool.
void gemv(const Matrix& x, Strided v, Strided start, float* out, int64_t out_stride);

// Panels of NR columns, each holding its rows one after another, the last filled up with zeros.
INLINE int64_t panel_floats(int64_t rows, int64_t cols) { return rows * ceil_div(cols, NR) * NR; }
void pack_panels(const Matrix& b, float* panels);

// Blocks of MR rows, each holding its columns one after another.
void pack_rows(const Matrix& a, float* packed);

// c = start + a · panels on the calling thread; one of a's strides must be 1.
void multiply_panels(const Matrix& a, const float* panels, int64_t cols, Strided start, float* c,
                     int64_t c_stride);

}  // namespace minillm::MINILLM_ISA
