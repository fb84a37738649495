// The product of packed blocks on one thread: a tile of the result after the other.
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t group_floats = 1 << 16;

using TileFunction = void (*)(const Tile&);

template <bool by_rows, bool packed, int M, int N>
struct FillTable {
    static constexpr void fill(TileFunction (&table)[MR][NV]) {
        table[M - 1][N - 1] = multiply_tile<M, N, by_rows, packed>;
        if constexpr (N > 1)
            FillTable<by_rows, packed, M, N - 1>::fill(table);
        else if constexpr (M > 1)
            FillTable<by_rows, packed, M - 1, NV>::fill(table);
    }
};

struct TileTable {
    TileFunction functions[2][2][MR][NV] = {};
    constexpr TileTable() {
        FillTable<false, false, MR, NV>::fill(functions[0][0]);
        FillTable<false, true, MR, NV>::fill(functions[0][1]);
        FillTable<true, false, MR, NV>::fill(functions[1][0]);
        FillTable<true, true, MR, NV>::fill(functions[1][1]);
    }
};

constexpr TileTable tiles;

void prefetch(const float* from, int64_t stride, int64_t rows, int64_t cols) {
    for (int64_t i = 0; from && i < rows; i++)
        for (int64_t j = 0; j < cols; j += 16) __builtin_prefetch(from + i * stride + j);
}

// What the finish of a tile touches comes near while the tile is computed.
void prefetch(int64_t rows, int64_t cols, const Output& out) {
    prefetch(out.c, out.stride, rows, cols);
    prefetch(out.beside, out.stride, rows, cols);
    prefetch(out.bend_at, out.stride, rows, cols);
    if (out.start.stride) prefetch(out.start.data, out.start.stride, rows, cols);
}

// A tile of `rows` x `cols`, whose last vector of columns may be partial: b must be readable there.
void multiply_any_tile(bool by_rows, int64_t rows, int64_t cols, Tile tile, const Output& out) {
    const bool packed = tile.b_stride == NR && (by_rows || tile.a_stride == MR);
    const auto function = tiles.functions[by_rows][packed][rows - 1][ceil_div(cols, W) - 1];
    if (cols % W == 0 && out.finish == Output::Finish::none) {
        tile.c = out.c;
        tile.c_stride = out.stride;
        tile.start = out.start.data;
        tile.start_stride = out.start.stride;
        return function(tile);
    }
    prefetch(rows, cols, out);
    float sums[MR * NR];
    tile.c = sums;
    tile.c_stride = NR;
    function(tile);
    finish(sums, NR, rows, cols, out);
}

}  // namespace

RowBlock rows_in_place(const Matrix& a) {
    if (a.col_stride == 1) return {a.data, a.rows, a.cols, a.row_stride, a.row_stride, true};
    return {a.data, a.rows, a.cols, 1, a.col_stride, false};
}

// A group of panels stays in the second cache while all rows pass over it, and the tiles of a row
// of the result follow each other, so that cache lines which two of them share are written while
// near.
void multiply_block(const RowBlock& a, const Panels& b, int64_t first, int64_t last,
                    const Output& out) {
    const int64_t together = larger(1, group_floats / (NR * larger(1, a.depth)));
    for (int64_t group = first; group < last; group += together) {
        for (int64_t i = 0; i < a.rows; i += MR) {
            for (int64_t j = group; j < smaller(last, group + together); j++) {
                const Strided panel = b[j];
                multiply_any_tile(a.by_rows, smaller(MR, a.rows - i), b.width(j),
                                  {a.depth, a.data + i * a.advance, a.stride, panel.data,
                                   panel.stride, nullptr, 0, nullptr, 0},
                                  part(out, i, j * NR));
            }
        }
    }
}

}  // namespace minillm::MINILLM_ISA
