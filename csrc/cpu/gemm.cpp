// The blocked product after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (ACM TOMS 34, 2008): B is packed into panels that stay in cache while blocks of
// rows of A pass over them. Depth is cut by its size alone, so that the order of summation, and
// with it every bit of the result, is the same for any number of threads.
#include "gemm.h"

#include "../parallel.h"
#include "../scratch.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t max_depth = 512;          // of a block; deep ones pass over C less often
constexpr int64_t block_rows = 20 * MR;     // of A, which stay in the second cache
constexpr int64_t packed_floats = 1 << 19;  // of B at a time
constexpr int64_t serial_work = 1 << 19;    // multiplications below which threads do not pay

// How a product is cut into tasks: about three for each thread.
struct Grid {
    int64_t rows, row_blocks, panels, panel_groups;

    Grid(int64_t all_rows, int64_t all_panels, bool serial) {
        const int64_t wanted = serial ? 1 : 3 * thread_count();
        rows = smaller(block_rows, ceil_div(all_rows, wanted * MR) * MR);
        row_blocks = ceil_div(all_rows, rows);
        panels = ceil_div(all_panels, smaller(all_panels, ceil_div(wanted, row_blocks)));
        panel_groups = ceil_div(all_panels, panels);
    }
};

Panels pack_in_parallel(const Matrix& b, bool serial, float* memory) {
    const int64_t cols = serial ? b.cols : larger(1, 16384 / (b.rows * NR)) * NR;
    parallel_for(ceil_div(b.cols, cols), [&](int64_t i) {
        pack_panels(part(b, 0, b.rows, i * cols, smaller(cols, b.cols - i * cols)),
                    memory + i * cols * b.rows);
    });
    return {memory, b.rows, b.cols};
}

void multiply_in_parallel(const Matrix& a, const Panels& b, Strided start, float* c,
                          int64_t c_stride, bool serial) {
    const Grid grid(a.rows, b.count(), serial);
    parallel_for(grid.row_blocks * grid.panel_groups, [&](int64_t task) {
        const int64_t row = task / grid.panel_groups * grid.rows;
        const int64_t panel = task % grid.panel_groups * grid.panels;
        const Matrix rows = part(a, row, smaller(grid.rows, a.rows - row), 0, a.cols);
        const Scratch memory(a.col_stride == 1 ? 0 : block_rows * max_depth);
        const RowBlock block = a.col_stride == 1 ? rows_in_place(rows) : pack_rows(rows, memory);
        multiply_block(block, b, panel, smaller(panel + grid.panels, b.count()),
                       part(start, row, 0), c + row * c_stride, c_stride);
    });
}

void fill(Strided start, int64_t rows, int64_t cols, float* c, int64_t c_stride) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            c[i * c_stride + j] = start.data ? start.data[i * start.stride + j] : 0;
}

}  // namespace

void gemm(const Matrix& a, const Matrix& b, Strided start, float* c, int64_t c_stride) {
    const int64_t rows = a.rows, cols = b.cols, depth = a.cols;
    if (rows == 0 || cols == 0) return;
    if (depth == 0) return fill(start, rows, cols, c, c_stride);
    if (rows == 1) return gemv(transposed(b), {a.data, a.col_stride}, {start.data, 1}, c, 1);
    if (cols == 1) return gemv(a, {b.data, b.row_stride}, start, c, c_stride);

    const bool serial = rows * cols * depth < serial_work;
    const bool leave_b = b.col_stride == 1 && (rows <= 4 * MR || depth * cols <= 16384);
    const int64_t slice = ceil_div(depth, ceil_div(depth, max_depth));
    const int64_t width =
        leave_b ? cols : smaller(cols, larger(1, packed_floats / (slice * NR)) * NR);
    const Scratch memory(leave_b ? slice * NR : panel_floats(slice, width));
    for (int64_t col = 0; col < cols; col += width) {
        for (int64_t k = 0; k < depth; k += slice) {
            const Matrix block =
                part(b, k, smaller(slice, depth - k), col, smaller(width, cols - col));
            const Panels panels =
                leave_b ? panels_in_place(block, memory) : pack_in_parallel(block, serial, memory);
            multiply_in_parallel(part(a, 0, rows, k, block.rows), panels,
                                 k == 0 ? part(start, 0, col) : Strided{c + col, c_stride}, c + col,
                                 c_stride, serial);
        }
    }
}

}  // namespace minillm::MINILLM_ISA
