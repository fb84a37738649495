// The blocked product after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (ACM TOMS 34, 2008): B is packed into panels that stay in cache while blocks of
// rows of A pass over them. Depth is cut by its size alone, so that the order of summation, and
// with it every bit of the result, is the same for any number of threads.
#include "gemm.h"

#include "../parallel.h"
#include "../scratch.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t max_depth = 256;          // of a block: a panel then fits the first cache
constexpr int64_t block_rows = 10 * MR;     // a block of A then fits the second
constexpr int64_t packed_floats = 1 << 20;  // of B at a time
constexpr int64_t serial_work = 1 << 19;    // multiplications below which threads do not pay

using TileFunction = void (*)(const Tile&);

template <bool by_rows, int M, int N>
struct FillTable {
    static constexpr void fill(TileFunction (&table)[MR][NV]) {
        table[M - 1][N - 1] = multiply_tile<M, N, by_rows>;
        if constexpr (N > 1)
            FillTable<by_rows, M, N - 1>::fill(table);
        else if constexpr (M > 1)
            FillTable<by_rows, M - 1, NV>::fill(table);
    }
};

struct TileTable {
    TileFunction functions[2][MR][NV] = {};
    constexpr TileTable() {
        FillTable<false, MR, NV>::fill(functions[0]);
        FillTable<true, MR, NV>::fill(functions[1]);
    }
};

constexpr TileTable tiles;

// A tile of `rows` x `cols`, whose last vector of columns may be partial: b must be readable
// beyond.
void multiply_any_tile(bool by_rows, int64_t rows, int64_t cols, Tile tile) {
    const auto function = tiles.functions[by_rows][rows - 1][ceil_div(cols, W) - 1];
    if (cols % W == 0) return function(tile);
    float whole[MR * NR];
    const Tile target = tile;
    tile.c = whole;
    tile.c_stride = NR;
    tile.start = nullptr;
    function(tile);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            const float product = whole[i * NR + j];
            target.c[i * target.c_stride + j] =
                target.start ? target.start[i * target.start_stride + j] + product : product;
        }
    }
}

// A block of B: panels in a row, or rows where they lie but for a last panel of broken width.
struct Panels {
    const float* packed;
    const float* in_place;  // or null
    int64_t row_stride;     // in place
    int64_t depth, cols;

    int64_t count() const { return ceil_div(cols, NR); }
    int64_t width(int64_t j) const { return smaller(NR, cols - j * NR); }
    Strided operator[](int64_t j) const {  // where panel j begins, and how far its rows are apart
        if (!in_place) return {packed + j * depth * NR, NR};
        if (width(j) % W) return {packed, NR};
        return {in_place + j * NR, row_stride};
    }
};

// A block of A as the tiles read it: they begin `advance` elements a row apart.
struct Rows {
    const float* data;
    int64_t count, advance, stride;
    bool by_rows;
};

Rows in_place(const Matrix& a) {
    if (a.col_stride == 1) return {a.data, a.rows, a.row_stride, a.row_stride, true};
    return {a.data, a.rows, 1, a.col_stride, false};
}

void multiply_block(const Rows& a, const Panels& panels, int64_t first, int64_t last, Strided start,
                    float* c, int64_t c_stride) {
    for (int64_t j = first; j < last; j++) {
        const Strided b = panels[j];
        for (int64_t i = 0; i < a.count; i += MR) {
            multiply_any_tile(
                a.by_rows, smaller(MR, a.count - i), panels.width(j),
                {panels.depth, a.data + i * a.advance, a.stride, b.data, b.stride,
                 c + i * c_stride + j * NR, c_stride, part(start, i, j * NR).data, start.stride});
        }
    }
}

// How a product is cut into tasks: about four for each thread.
struct Grid {
    int64_t rows, row_blocks, panels, panel_groups;

    Grid(int64_t all_rows, int64_t all_panels, bool serial) {
        const int64_t wanted = serial ? 1 : 4 * thread_count();
        rows = smaller(block_rows, ceil_div(all_rows, wanted * MR) * MR);
        row_blocks = ceil_div(all_rows, rows);
        panels = ceil_div(all_panels, smaller(all_panels, ceil_div(wanted, row_blocks)));
        panel_groups = ceil_div(all_panels, panels);
    }
};

void pack_in_parallel(const Matrix& b, bool serial, float* panels) {
    const int64_t cols = serial ? b.cols : larger(1, 16384 / (b.rows * NR)) * NR;
    parallel_for(ceil_div(b.cols, cols), [&](int64_t i) {
        pack_panels(part(b, 0, b.rows, i * cols, smaller(cols, b.cols - i * cols)),
                    panels + i * cols * b.rows);
    });
}

void multiply_in_parallel(const Matrix& a, const Panels& panels, Strided start, float* c,
                          int64_t c_stride, bool serial) {
    const Grid grid(a.rows, panels.count(), serial);
    parallel_for(grid.row_blocks * grid.panel_groups, [&](int64_t task) {
        const int64_t row = task / grid.panel_groups * grid.rows;
        const int64_t panel = task % grid.panel_groups * grid.panels;
        const Matrix block = part(a, row, smaller(grid.rows, a.rows - row), 0, a.cols);
        const Scratch packed(a.col_stride == 1 ? 0 : block_rows * max_depth);
        Rows rows{packed, block.rows, block.cols, MR, false};
        if (a.col_stride == 1)
            rows = in_place(block);
        else
            pack_rows(block, packed);
        multiply_block(rows, panels, panel, smaller(panel + grid.panels, panels.count()),
                       part(start, row, 0), c + row * c_stride, c_stride);
    });
}

void fill(Strided start, int64_t rows, int64_t cols, float* c, int64_t c_stride) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            c[i * c_stride + j] = start.data ? start.data[i * start.stride + j] : 0;
}

}  // namespace

void multiply_panels(const Matrix& a, const float* panels, int64_t cols, Strided start, float* c,
                     int64_t c_stride) {
    multiply_block(in_place(a), {panels, nullptr, 0, a.cols, cols}, 0, ceil_div(cols, NR), start, c,
                   c_stride);
}

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
    const Scratch packed(leave_b ? slice * NR : panel_floats(slice, width));
    for (int64_t col = 0; col < cols; col += width) {
        for (int64_t k = 0; k < depth; k += slice) {
            const Matrix block =
                part(b, k, smaller(slice, depth - k), col, smaller(width, cols - col));
            const int64_t whole = block.cols / NR * NR;
            if (!leave_b)
                pack_in_parallel(block, serial, packed);
            else
                pack_panels(part(block, 0, block.rows, whole, block.cols - whole), packed);
            const Panels panels{packed, leave_b ? block.data : nullptr, block.row_stride,
                                block.rows, block.cols};
            multiply_in_parallel(part(a, 0, rows, k, block.rows), panels,
                                 k == 0 ? part(start, 0, col) : Strided{c + col, c_stride}, c + col,
                                 c_stride, serial);
        }
    }
}

}  // namespace minillm::MINILLM_ISA
