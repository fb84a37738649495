// The product of packed blocks on one thread: a tile of the result after the other.
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

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

// A tile of `rows` x `cols`, whose last vector of columns may be partial: b must be readable there.
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

}  // namespace

RowBlock rows_in_place(const Matrix& a) {
    if (a.col_stride == 1) return {a.data, a.rows, a.cols, a.row_stride, a.row_stride, true};
    return {a.data, a.rows, a.cols, 1, a.col_stride, false};
}

void multiply_block(const RowBlock& a, const Panels& b, int64_t first, int64_t last, Strided start,
                    float* c, int64_t c_stride) {
    for (int64_t j = first; j < last; j++) {
        const Strided panel = b[j];
        for (int64_t i = 0; i < a.rows; i += MR) {
            multiply_any_tile(
                a.by_rows, smaller(MR, a.rows - i), b.width(j),
                {a.depth, a.data + i * a.advance, a.stride, panel.data, panel.stride,
                 c + i * c_stride + j * NR, c_stride, part(start, i, j * NR).data, start.stride});
        }
    }
}

}  // namespace minillm::MINILLM_ISA
