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

// Where a product goes, and what becomes of it on the way: with s = start + product + bias,
// c = s, or c = f(s) and `beside` keeps s, or c = s f'(bend_at) and `beside` gets f(bend_at). All
// lie alike: contiguous rows, `stride` apart.
struct Output {
    enum class Finish { none, add_bias, activate, bend };

    float* c;
    int64_t stride;
    Strided start;
    Finish finish = Finish::none;
    Activation activation = Activation::gelu;
    const float* bias = nullptr;  // of columns; null: 0
    float* beside = nullptr;
    const float* bend_at = nullptr;
};

INLINE Output part(Output out, int64_t row, int64_t col) {
    const int64_t offset = row * out.stride + col;
    out.c += offset;
    out.start = part(out.start, row, col);
    if (out.bias) out.bias += col;
    if (out.beside) out.beside += offset;
    if (out.bend_at) out.bend_at += offset;
    return out;
}

// The same for one of several slices of depth, which add up in c.
INLINE Output slice_of(Output out, bool first, bool last) {
    if (!first) out.start = {out.c, out.stride};
    if (!last) {
        out.finish = Output::Finish::none;
        out.bias = nullptr;
    }
    return out;
}

// Finishes a block of sums that lack start and bias; `sums` may be out.c where start is null.
void finish(const float* sums, int64_t sums_stride, int64_t rows, int64_t cols, const Output& out);

// Runs on the pool.
void gemm(const Matrix& a, const Matrix& b, const Output& out);

INLINE void gemm(const Matrix& a, const Matrix& b, Strided start, float* c, int64_t c_stride) {
    gemm(a, b, Output{c, c_stride, start});
}

// c (+)= a · b where that is wanted.
INLINE void gemm(const Matrix& a, const Matrix& b, Gradient c) {
    if (c.data) gemm(a, b, c.add ? Strided{c.data, b.cols} : Strided{}, c.data, b.cols);
}

// out = start + x · v. Runs on the pool.
void gemv(const Matrix& x, Strided v, Strided start, float* out, int64_t out_stride);

// out = a · b where the rows of a and the columns of b are contiguous: b is read once and not
// copied, which pays for a few rows only. Runs on the pool.
void multiply_few_rows_along(const Matrix& a, const Matrix& b, const Output& out);

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

// The product of a with the panels [first, last) of b, on the calling thread. The depth of a may be
// less than the rows of b.
void multiply_block(const RowBlock& a, const Panels& b, int64_t first, int64_t last,
                    const Output& out);

INLINE void multiply_block(const RowBlock& a, const Panels& b, int64_t first, int64_t last,
                           Strided start, float* c, int64_t c_stride) {
    multiply_block(a, b, first, last, Output{c, c_stride, start});
}

}  // namespace minillm::MINILLM_ISA
