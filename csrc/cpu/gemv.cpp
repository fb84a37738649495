// Matrix times vector, or times a few: every element of the matrix is read once, so memory sets the
// pace.
#include "../parallel.h"
#include "../scratch.h"
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t chunk_floats = 1 << 15;  // of the matrix
constexpr int64_t together = 4;            // rows that share one pass over v

template <int R>
void dot_rows(const float* x, int64_t row_stride, const float* v, int64_t n, float* out) {
    vf acc[R][2] = {};
    int64_t k = 0;
    for (; k + 2 * W <= n; k += 2 * W) {
        for (int i = 0; i < R; i++) {
            acc[i][0] += load(x + i * row_stride + k) * load(v + k);
            acc[i][1] += load(x + i * row_stride + k + W) * load(v + k + W);
        }
    }
    over_vectors(k, n, [&](int64_t j, auto lanes) {
        for (int i = 0; i < R; i++)
            acc[i][0] += load(x + i * row_stride + j, lanes) * load(v + j, lanes);
    });
    for (int i = 0; i < R; i++) out[i] = sum(acc[i][0] + acc[i][1]);
}

void gather(const float* from, int64_t stride, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i++) to[i] = from[i * stride];
}

// Rows of x are contiguous, or else (any strides) copied one at a time.
void dot_products(const Matrix& x, const float* v, float* out) {
    const int64_t each = larger(1, chunk_floats / x.cols / together) * together;
    parallel_for(ceil_div(x.rows, each), [&](int64_t chunk) {
        const int64_t end = smaller(x.rows, (chunk + 1) * each);
        const Scratch copy(x.col_stride == 1 ? 0 : x.cols);
        for (int64_t i = chunk * each; i < end;) {
            const float* row = x.data + i * x.row_stride;
            if (x.col_stride != 1) {
                gather(row, x.col_stride, x.cols, copy);
                dot_rows<1>(copy, 0, v, x.cols, out + i++);
            } else if (i + together <= end) {
                dot_rows<together>(row, x.row_stride, v, x.cols, out + i);
                i += together;
            } else {
                dot_rows<1>(row, 0, v, x.cols, out + i++);
            }
        }
    });
}

// Columns of x are contiguous: a chunk sums a band of its rows over all columns.
void combine_columns(const Matrix& x, const float* v, float* out) {
    constexpr int64_t each = 4 * W;
    parallel_for(ceil_div(x.rows, each), [&](int64_t chunk) {
        const int64_t first = chunk * each, rows = smaller(each, x.rows - first);
        vf acc[each / W] = {};
        for (int64_t k = 0; k < x.cols; k++) {
            const float* column = x.data + first + k * x.col_stride;
            const vf factor = splat(v[k]);
            over_vectors(0, rows, [&](int64_t i, auto lanes) {
                acc[i / W] += factor * load(column + i, lanes);
            });
        }
        over_vectors(0, rows,
                     [&](int64_t i, auto lanes) { store(out + first + i, acc[i / W], lanes); });
    });
}

}  // namespace

void gemv(const Matrix& x, Strided v, Strided start, float* out, int64_t out_stride) {
    const bool direct = !start.data && out_stride == 1;
    const Scratch factors(v.stride == 1 ? 0 : x.cols), results(direct ? 0 : x.rows);
    if (v.stride != 1) gather(v.data, v.stride, x.cols, factors);
    const float* vector = v.stride == 1 ? v.data : factors;
    float* products = direct ? out : results;
    if (x.row_stride == 1 && x.col_stride != 1)
        combine_columns(x, vector, products);
    else
        dot_products(x, vector, products);
    for (int64_t i = 0; i < x.rows && !direct; i++)
        out[i * out_stride] = start.data ? start.data[i * start.stride] + products[i] : products[i];
}

namespace {

constexpr int64_t rows_at_once = W / together;

// The dot products of `together` lines with R rows, summed across lanes by one transposition. The
// lines that come next are `ahead` elements further on.
template <int R>
void dot_lines(const float* const (&lines)[together], int64_t ahead, const float* x,
               int64_t x_stride, int64_t n, float* dots) {
    vf acc[W] = {};
    const auto add = [&](int64_t k, auto lanes) {
        vf line[together];
        for (int i = 0; i < together; i++) {
            line[i] = load(lines[i] + k, lanes);
            __builtin_prefetch(lines[i] + ahead + k);
        }
        for (int r = 0; r < R; r++) {
            const vf row = load(x + r * x_stride + k, lanes);
            for (int i = 0; i < together; i++) acc[r * together + i] += row * line[i];
        }
    };
    over_vectors(0, n, add);
    transpose(acc);
    vf total = acc[0];
    for (int i = 1; i < W; i++) total += acc[i];
    store(dots, total);
}

using DotLines = void (*)(const float* const (&)[together], int64_t, const float*, int64_t, int64_t,
                          float*);

template <int R = rows_at_once>
DotLines dot_lines_of(int64_t rows) {
    if constexpr (R > 1)
        if (rows < R) return dot_lines_of<R - 1>(rows);
    return dot_lines<R>;
}

}  // namespace

void multiply_few_rows_along(const Matrix& a, const Matrix& b, const Output& out) {
    const int64_t each = larger(1, chunk_floats / a.cols / together) * together;
    parallel_for(ceil_div(b.cols, each), [&](int64_t chunk) {
        const int64_t first = chunk * each, cols = smaller(each, b.cols - first);
        const Scratch sums(a.rows * each);
        for (int64_t j = 0; j < cols; j += together) {
            const float* lines[together];
            for (int64_t i = 0; i < together; i++)
                lines[i] = b.data + (first + smaller(j + i, cols - 1)) * b.col_stride;
            for (int64_t row = 0; row < a.rows; row += rows_at_once) {
                const int64_t rows = smaller(rows_at_once, a.rows - row);
                float dots[W];
                dot_lines_of(rows)(lines, together * b.col_stride, a.data + row * a.row_stride,
                                   a.row_stride, a.cols, dots);
                for (int64_t r = 0; r < rows; r++)
                    memcpy(sums + (row + r) * each + j, dots + r * together,
                           sizeof(float) * together);
            }
        }
        finish(sums, each, a.rows, cols, part(out, 0, first));
    });
}

}  // namespace minillm::MINILLM_ISA
