// The blocked product after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (ACM TOMS 34, 2008). The smaller operand is packed first, by all threads, and is
// shared; the larger is cut into blocks, one for each task, which packs what it needs of it, so
// that every element is packed once. Depth is cut by its size alone, so that the order of
// summation, and with it every bit of the result, is the same for any number of threads.
#include "gemm.h"

#include "../parallel.h"
#include "../scratch.h"
#include "bf16.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t max_depth = 512;          // of a slice; deep ones pass over C less often
constexpr int64_t most_tiles = 42;          // rows of a task, in tiles
constexpr int64_t most_panels = 12;         // columns of a task, in panels
constexpr int64_t shared_floats = 1 << 22;  // packed at a time
constexpr int64_t packed_together = 16384;  // floats of it, by a task
constexpr int64_t few_rows = W;             // too few to pack B for
constexpr int64_t serial_work = 1 << 19;    // multiplications below which threads do not pay

struct Product {
    const Matrix &a, &b;
    const Output& out;
    const bool serial = a.rows * b.cols * a.cols < serial_work;
    const int64_t slice = ceil_div(a.cols, ceil_div(a.cols, max_depth));

    int64_t depth_from(int64_t k) const { return smaller(slice, a.cols - k); }

    // Adds the products of the slice at k of some rows with some panels.
    void add(const RowBlock& rows, int64_t row, const Panels& panels, int64_t col,
             int64_t k) const {
        multiply_block(rows, panels, 0, panels.count(),
                       slice_of(part(out, row, col), k == 0, k + slice >= a.cols));
    }
};

// `units` of `size` elements, `end` in all, cut into tasks of nearly equal size: at most `most`
// units each, about two for each thread, and as many for one thread as for the others.
struct Tasks {
    int64_t units, size, end, count;

    Tasks(int64_t end, int64_t size, int64_t most, bool serial)
        : units(ceil_div(end, size)), size(size), end(end), count(1) {
        if (serial) return;
        const int64_t threads = thread_count();
        const int64_t each = smaller(larger(1, most), ceil_div(units, 2 * threads));
        count = smaller(units, ceil_div(ceil_div(units, each), threads) * threads);
    }
    int64_t begin(int64_t task) const { return smaller(end, units * task / count * size); }
    int64_t length(int64_t task) const { return begin(task + 1) - begin(task); }
    int64_t longest() const { return ceil_div(units, count) * size; }
};

// Packing rows that lie along memory pays where many panels read them.
bool packs(const Matrix& a, int64_t cols) { return a.col_stride != 1 || cols >= 256; }

RowBlock rows_of(const Matrix& a, bool pack, float* memory) {
    return pack ? pack_rows(a, memory) : rows_in_place(a);
}

void multiply_few_rows(const Product& p) {
    const Tasks tasks(p.b.cols, NR, p.b.cols, p.serial);
    parallel_for(tasks.count, [&](int64_t task) {
        const int64_t col = tasks.begin(task);
        const bool pack = p.a.col_stride != 1;
        const Scratch memory(p.slice * NR), row_memory(pack ? p.slice * 4 * MR : 0);
        for (int64_t k = 0; k < p.a.cols; k += p.slice) {
            const Matrix b = part(p.b, k, p.depth_from(k), col, tasks.length(task));
            const Panels panels = panels_in_place(b, memory);
            for (int64_t row = 0; row < p.a.rows; row += 4 * MR) {
                const int64_t rows = smaller(4 * MR, p.a.rows - row);
                p.add(rows_of(part(p.a, row, rows, k, b.rows), pack, row_memory), row, panels, col,
                      k);
            }
        }
    });
}

// B is shared.
void multiply_by_rows(const Product& p) {
    const int64_t depth = p.a.cols, slices = ceil_div(depth, p.slice);
    const int64_t width = smaller(p.b.cols, larger(1, shared_floats / (depth * NR)) * NR);
    const Tasks tasks(p.a.rows, MR, most_tiles, p.serial);
    const bool pack = packs(p.a, p.b.cols);
    const Scratch shared(panel_floats(depth, width));
    for (int64_t col = 0; col < p.b.cols; col += width) {
        const int64_t cols = smaller(width, p.b.cols - col), padded = panel_floats(1, cols);
        const Tasks packing(cols, NR, packed_together / (depth * NR), p.serial);
        parallel_for(slices * packing.count, [&](int64_t task) {
            const int64_t k = task % slices * p.slice, panels = task / slices;
            const int64_t first = packing.begin(panels);
            pack_panels(part(p.b, k, p.depth_from(k), col + first, packing.length(panels)),
                        shared + k * padded + first * p.depth_from(k));
        });
        parallel_for(tasks.count, [&](int64_t task) {
            const int64_t row = tasks.begin(task), rows = tasks.length(task);
            const Scratch memory(pack ? p.slice * tasks.longest() : 0);
            for (int64_t k = 0; k < depth; k += p.slice) {
                const RowBlock block =
                    rows_of(part(p.a, row, rows, k, p.depth_from(k)), pack, memory);
                p.add(block, row, {shared + k * padded, block.depth, cols}, col, k);
            }
        });
    }
}

// A is shared.
void multiply_by_columns(const Product& p) {
    const int64_t depth = p.a.cols, slices = ceil_div(depth, p.slice);
    const bool pack = packs(p.a, p.b.cols);
    const int64_t height =
        pack ? smaller(p.a.rows, larger(1, shared_floats / (depth * MR)) * MR) : p.a.rows;
    const Tasks tasks(p.b.cols, NR, most_panels, p.serial);
    const Scratch shared(pack ? depth * ceil_div(height, MR) * MR : 0);
    for (int64_t row = 0; row < p.a.rows; row += height) {
        const int64_t rows = smaller(height, p.a.rows - row), padded = ceil_div(rows, MR) * MR;
        const auto block = [&](int64_t k) {
            const Matrix a = part(p.a, row, rows, k, p.depth_from(k));
            return pack ? RowBlock{shared + k * padded, rows, a.cols, a.cols, MR, false}
                        : rows_in_place(a);
        };
        const Tasks packing(rows, MR, packed_together / (p.slice * MR), p.serial);
        if (pack)
            parallel_for(slices * packing.count, [&](int64_t task) {
                const int64_t k = task % slices * p.slice, tiles = task / slices;
                const int64_t first = packing.begin(tiles), count = packing.length(tiles);
                pack_rows(part(p.a, row + first, count, k, p.depth_from(k)),
                          shared + k * padded + first * p.depth_from(k));
            });
        parallel_for(tasks.count, [&](int64_t task) {
            const int64_t col = tasks.begin(task), cols = tasks.length(task);
            const Scratch memory(panel_floats(p.slice, tasks.longest()));
            for (int64_t k = 0; k < depth; k += p.slice)
                p.add(block(k), row, pack_panels(part(p.b, k, p.depth_from(k), col, cols), memory),
                      col, k);
        });
    }
}

// Products with one row or column: into memory of their own where they are not the result.
void multiply_vector(const Matrix& a, const Matrix& b, const Output& out) {
    const bool row = a.rows == 1, direct = row && out.finish == Output::Finish::none;
    const Scratch memory(direct ? 0 : a.rows * b.cols);
    float* sums = direct ? out.c : memory;
    if (row)
        gemv(transposed(b), {a.data, a.col_stride}, {direct ? out.start.data : nullptr, 1}, sums,
             1);
    else
        gemv(a, {b.data, b.row_stride}, {}, sums, 1);
    if (!direct) finish(sums, 1, a.rows, b.cols, out);
}

void multiply_nothing(int64_t rows, int64_t cols, const Output& out) {
    const Scratch zeros(cols);
    memset(zeros, 0, sizeof(float) * cols);
    finish(zeros, 0, rows, cols, out);
}

}  // namespace

void gemm(const Matrix& a, const Matrix& b, const Output& out) {
    const int64_t rows = a.rows, cols = b.cols, depth = a.cols;
    if (rows == 0 || cols == 0) return;
    if (depth == 0) return multiply_nothing(rows, cols, out);
    if (rows == 1 || cols == 1) return multiply_vector(a, b, out);

#if MINILLM_AMX
    if (const int pieces = pieces_for(rows, cols, depth)) return gemm_tiles(a, b, out, pieces);
#endif

    if (rows <= few_rows && a.col_stride == 1 && b.row_stride == 1 && b.col_stride != 1)
        return multiply_few_rows_along(a, b, out);

    const Product product{a, b, out};
    if (b.col_stride == 1 && (rows <= 4 * MR || depth * cols <= 16384))
        multiply_few_rows(product);
    else if (rows >= cols)
        multiply_by_rows(product);
    else
        multiply_by_columns(product);
}

}  // namespace minillm::MINILLM_ISA
