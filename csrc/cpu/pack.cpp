// Copies of matrix blocks in the order in which the innermost product reads them.
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t lines_together = 16;  // read across, so that the reads form long runs

void prefetch_lines(const float* line, int64_t stride, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < NR; j += 16) __builtin_prefetch(line + i * stride + j);
}

// Lines [first, end) of b, whose columns are contiguous, into a panel.
void pack_lines(const Matrix& b, int64_t first, int64_t end, float* panel) {
    for (int64_t k = first; k < end; k++) {
        const float* line = b.data + k * b.row_stride;
        float* to = panel + k * NR;
        if (b.cols == NR) {
            for (int j = 0; j < NR; j += W) store(to + j, load(line + j));
        } else {
            for (int64_t j = 0; j < NR; j++) to[j] = j < b.cols ? line[j] : 0;
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
    const bool lines = b.col_stride == 1;
    const int64_t each = lines ? lines_together : b.rows;
    for (int64_t k = 0; k < b.rows; k += each) {
        float* panel = memory;
        for (int64_t col = 0; col < b.cols; col += NR, panel += b.rows * NR) {
            const Matrix columns = part(b, 0, b.rows, col, smaller(NR, b.cols - col));
            if (lines) {
                const int64_t end = smaller(b.rows, k + each), next = smaller(b.rows, end + each);
                prefetch_lines(columns.data + end * b.row_stride, b.row_stride, next - end);
                pack_lines(columns, k, end, panel);
            } else if (b.row_stride == 1) {
                pack_columns(columns, panel);
            } else {
                pack_elements(columns, 0, 0, panel);
            }
        }
    }
    return {memory, b.rows, b.cols};
}

Panels panels_in_place(const Matrix& b, float* memory) {
    const int64_t whole = b.cols / NR * NR;
    pack_panels(part(b, 0, b.rows, whole, b.cols - whole), memory);
    return {memory, b.rows, b.cols, b.data, b.row_stride};
}

namespace {

INLINE void store_some(float* to, vf v, int64_t count) {
    if (count == W)
        store(to, v);
    else
        store(to, v, First{count});
}

// Rows lie along memory: squares of W columns are transposed, up to W rows of a tile at a time.
void pack_rows_along(const Matrix& a, float* memory) {
    for (int64_t row = 0; row < a.rows; row += MR) {
        float* tile = memory + row * a.cols;
        for (int64_t k = 0; k < a.cols; k += W) {
            const int64_t depth = smaller(W, a.cols - k);
            for (int64_t part = 0; part < smaller(MR, a.rows - row); part += W) {
                const int64_t rows = smaller(smaller(W, MR - part), a.rows - row - part);
                vf square[W];
                for (int64_t i = 0; i < W; i++) {
                    const float* from = a.data + (row + part + i) * a.row_stride + k;
                    if (i >= rows)
                        square[i] = vf{};
                    else
                        square[i] = depth == W ? load(from) : load(from, First{depth});
                }
                transpose(square);
                for (int64_t i = 0; i < depth; i++)
                    store_some(tile + (k + i) * MR + part, square[i], smaller(W, MR - part));
            }
        }
    }
}

// Columns lie along memory: a run of each is copied.
void pack_rows_across(const Matrix& a, float* memory) {
    for (int64_t first = 0; first < a.cols; first += lines_together) {
        const int64_t end = smaller(a.cols, first + lines_together);
        const int64_t next = smaller(a.cols, end + lines_together);
        for (int64_t row = 0; row < a.rows; row += MR) {
            const int64_t rows = smaller(MR, a.rows - row);
            const float* column = a.data + row * a.row_stride;
            float* to = memory + row * a.cols;
            for (int64_t k = end; k < next; k++) __builtin_prefetch(column + k * a.col_stride);
            for (int64_t k = first; k < end; k++) {
                if (rows == MR && a.row_stride == 1) {
                    memcpy(to + k * MR, column + k * a.col_stride, sizeof(float) * MR);
                } else {
                    for (int64_t i = 0; i < rows; i++)
                        to[k * MR + i] = column[i * a.row_stride + k * a.col_stride];
                }
            }
        }
    }
}

}  // namespace

RowBlock pack_rows(const Matrix& a, float* memory) {
    (a.col_stride == 1 ? pack_rows_along : pack_rows_across)(a, memory);
    return {memory, a.rows, a.cols, a.cols, MR, false};
}

}  // namespace minillm::MINILLM_ISA
