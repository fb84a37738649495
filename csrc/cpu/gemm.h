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

// c (+)= a · b where that is wanted.
INLINE void gemm(const Matrix& a, const Matrix& b, Gradient c) {
    if (c.data) gemm(a, b, c.add ? Strided{c.data, b.cols} : Strided{}, c.data, b.cols);
}

// out = start + x · v. Runs on the pool.
void gemv(const Matrix& x, Strided v, Strided start, float* out, int64_t out_stride);

// A block of B as the tiles read it: panels of NR columns, each with its rows one after another and
// the last filled up with zeros; or rows where they lie but for a last panel of broken width.
struct Panels {
    const float* packed;
    int64_t rows, cols;
    const float* in_place = nullptr;
    int64_t row_stride = 0;

    int64_t count() const { return ceil_div(cols, NR); }
    int64_t width(int64_t j) const { return smaller(NR, cols - j * NR); }
    Strided operator[](int64_t j) const {  // where panel j begins, and how far its rows are apart
        if (!in_place) return {packed + j * rows * NR, NR};
        if (width(j) % W) return {packed, NR};
        return {in_place + j * NR, row_stride};
    }
};

INLINE int64_t panel_floats(int64_t rows, int64_t cols) { return rows * ceil_div(cols, NR) * NR; }
Panels pack_panels(const Matrix& b, float* memory);      // of panel_floats(rows, cols)
Panels panels_in_place(const Matrix& b, float* memory);  // of rows * NR; columns must be contiguous

// A block of A as the tiles read it: tiles begin `advance` elements a row apart.
struct RowBlock {
    const float* data;
    int64_t rows, depth, advance, stride;
    bool by_rows;
};

RowBlock rows_in_place(const Matrix& a);             // one of the strides must be 1
RowBlock pack_rows(const Matrix& a, float* memory);  // of cols * rows, rounded up to MR

// c = start + a · b for the panels [first, last) of b, on the calling thread. The depth of a may be
// less than the rows of b.
void multiply_block(const RowBlock& a, const Panels& b, int64_t first, int64_t last, Strided start,
                    float* c, int64_t c_stride);

}  // namespace minillm::MINILLM_ISA
