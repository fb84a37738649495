// Copies of matrix blocks in the order in which the innermost product reads them.
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

void pack_lines(const Matrix& b, float* panel) {  // columns are contiguous in memory
    for (int64_t k = 0; k < b.rows; k++, panel += NR) {
        const float* row = b.data + k * b.row_stride;
        if (b.cols == NR) {
            for (int j = 0; j < NR; j += W) store(panel + j, load(row + j));
        } else {
            for (int64_t j = 0; j < NR; j++) panel[j] = j < b.cols ? row[j] : 0;
        }
    }
}

void pack_elements(const Matrix& b, int64_t first_row, int64_t first_col, float* panel) {
    for (int64_t k = first_row; k < b.rows; k++)
        for (int64_t j = first_col; j < NR; j++)
            panel[k * NR + j] = j < b.cols ? b.data[k * b.row_stride + j * b.col_stride] : 0;
}

void pack_columns(const Matrix& b, float* panel) {  // rows are contiguous: transpose squares
    const int64_t rows = b.rows / W * W, cols = b.cols / W * W;
    for (int64_t j = 0; j < cols; j += W) {
        for (int64_t k = 0; k < rows; k += W) {
            vf square[W];
            for (int i = 0; i < W; i++) square[i] = load(b.data + (j + i) * b.col_stride + k);
            transpose(square);
            for (int i = 0; i < W; i++) store(panel + (k + i) * NR + j, square[i]);
        }
    }
    pack_elements(b, 0, cols, panel);
    if (rows < b.rows) pack_elements(b, rows, 0, panel);
}

}  // namespace

Panels pack_panels(const Matrix& b, float* memory) {
    float* panel = memory;
    for (int64_t col = 0; col < b.cols; col += NR, panel += b.rows * NR) {
        const Matrix columns = part(b, 0, b.rows, col, smaller(NR, b.cols - col));
        if (b.col_stride == 1) {
            pack_lines(columns, panel);
        } else if (b.row_stride == 1) {
            pack_columns(columns, panel);
        } else {
            pack_elements(columns, 0, 0, panel);
        }
    }
    return {memory, b.rows, b.cols};
}

Panels panels_in_place(const Matrix& b, float* memory) {
    const int64_t whole = b.cols / NR * NR;
    pack_panels(part(b, 0, b.rows, whole, b.cols - whole), memory);
    return {memory, b.rows, b.cols, b.data, b.row_stride};
}

RowBlock pack_rows(const Matrix& a, float* memory) {
    for (int64_t k = 0; k < a.cols; k++) {
        for (int64_t row = 0; row < a.rows; row += MR) {
            const float* column = a.data + row * a.row_stride + k * a.col_stride;
            float* to = memory + row * a.cols + k * MR;
            const int64_t rows = smaller(MR, a.rows - row);
            if (rows == MR && a.row_stride == 1) {
                memcpy(to, column, sizeof(float) * MR);
            } else {
                for (int64_t i = 0; i < rows; i++) to[i] = column[i * a.row_stride];
            }
        }
    }
    return {memory, a.rows, a.cols, a.cols, MR, false};
}

}  // namespace minillm::MINILLM_ISA
