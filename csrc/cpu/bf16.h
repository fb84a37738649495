// Matrix products whose operands are rounded to bfloat16 and multiplied by tiles; sums in float32.
#pragma once

#include "amx.h"
#include "gemm.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

// Lines of an operand (rows of a, columns of b) in tiles: for each 16 lines their tiles in order of
// depth, filled up with zeros. Tiles of a are by line, those of b by pair of depth.
struct TileBlock {
    const uint16_t* data;
    int64_t lines, depth;

    int64_t tiles_deep() const { return ceil_div(depth, tile_depth); }
    const uint16_t* operator[](int64_t group) const {  // of 16 lines
        return data + group * tiles_deep() * tile_numbers;
    }
};

INLINE int64_t tile_block_numbers(int64_t lines, int64_t depth) {
    return ceil_div(lines, tile_lines) * ceil_div(depth, tile_depth) * tile_numbers;
}
INLINE int64_t tile_block_floats(int64_t lines, int64_t depth) {
    return tile_block_numbers(lines, depth) / 2;
}

// Memory of tile_block_numbers.
TileBlock pack_tile_rows(const Matrix& a, uint16_t* memory);
TileBlock pack_tile_columns(const Matrix& b, uint16_t* memory);

// The product on this thread, inside a TileScope.
void multiply_tiles(const TileBlock& a, const TileBlock& b, const Output& out);

// Whether tiles pay for a product of this size.
INLINE bool suits_tiles(int64_t rows, int64_t cols, int64_t depth) {
    return rows >= 16 && cols >= 16 && depth >= 16;
}

// Runs on the pool.
void gemm_bf16(const Matrix& a, const Matrix& b, const Output& out);

#endif

}  // namespace minillm::MINILLM_ISA
