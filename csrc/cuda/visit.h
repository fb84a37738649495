// Work on a matrix element by element, with the sums of its columns on the way where they are
// wanted. Parts of the rows are summed apart and then added up in their order, however many blocks
// run at once: the bits depend on the sizes alone.
#pragma once

#include "columns.h"
#include "numbers.h"

namespace minillm::device {

constexpr int visitors = 128;            // threads of a block, side by side
constexpr int rows_at_once = 4;          // of each, so that as many loads are under way
constexpr int64_t most_parts = 128;      // of the rows, with sums
constexpr int64_t least_part = 16;       // rows of one
constexpr int64_t most_tiles = 1 << 14;  // of the rows, without

// work.load(row, col) reads Width neighbours, work.finish(row, col, loaded) writes what becomes of
// them and returns what is summed.
template <int Width, class Work>
__global__ void __launch_bounds__(visitors)
    visit_elements(Work work, int64_t rows, int64_t cols, int64_t rows_each, float* partial) {
    const int64_t col = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * Width;
    if (col >= cols) return;
    const int64_t first = blockIdx.y * rows_each;
    const int64_t last = first + rows_each < rows ? first + rows_each : rows;
    Pack<Width> sums = {};
    const auto finish = [&](int64_t row, const typename Work::Loaded& loaded) {
        const Pack<Width> values = work.finish(row, col, loaded);
#pragma unroll
        for (int i = 0; i < Width; i++) sums.at[i] += values.at[i];
    };
    int64_t row = first;
    for (; row + rows_at_once <= last; row += rows_at_once) {
        typename Work::Loaded loaded[rows_at_once];
#pragma unroll
        for (int i = 0; i < rows_at_once; i++) loaded[i] = work.load(row + i, col);
#pragma unroll
        for (int i = 0; i < rows_at_once; i++) finish(row + i, loaded[i]);
    }
    for (; row < last; row++) finish(row, work.load(row, col));
    if (partial) store(partial + blockIdx.y * cols + col, sums);
}

template <int Width, class Work>
void visit(const Work& work, int64_t rows, int64_t cols, Gradient sums = {nullptr, false}) {
    const int64_t limit = sums.data ? most_parts : most_tiles;
    int64_t rows_each = divide_up(rows, limit);
    if (rows_each < least_part) rows_each = least_part;
    const int64_t parts = divide_up(rows, rows_each), lanes = divide_up(cols, Width);
    const int64_t threads = lanes < visitors ? divide_up(lanes, warp_size) * warp_size : visitors;
    const Scratch<float> partial(sums.data ? parts * cols : 0);
    launch(visit_elements<Width, Work>, dim3(divide_up(lanes, visitors), parts), threads, 0, work,
           rows, cols, rows_each, partial.data());
    sum_rows(partial.data(), parts, cols, sums);
}

}  // namespace minillm::device
