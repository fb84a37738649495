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
    int64_t stride;  // from the tiles of 16 lines to those of the next

    const uint16_t* operator[](int64_t group) const { return data + group * stride; }
};

INLINE int64_t tiles_deep(int64_t depth) { return ceil_div(depth, tile_depth); }

// Lines from a multiple of 16 on, depth from a multiple of 32 on.
INLINE TileBlock part(const TileBlock& block, int64_t line, int64_t lines, int64_t k,
                      int64_t depth) {
    return {block[line / tile_lines] + k / tile_depth * tile_numbers, lines, depth, block.stride};
}

INLINE int64_t tile_block_numbers(int64_t lines, int64_t depth) {
    return ceil_div(lines, tile_lines) * tiles_deep(depth) * tile_numbers;
}
INLINE int64_t tile_block_floats(int64_t lines, int64_t depth) {
    return tile_block_numbers(lines, depth) / 2;
}

// Memory of tile_block_numbers, or whatever holds the groups of 16 lines at distances of `stride`.
TileBlock pack_tile_rows(const Matrix& a, uint16_t* memory, int64_t stride = 0);
TileBlock pack_tile_columns(const Matrix& b, uint16_t* memory, int64_t stride = 0);

constexpr int64_t pair = 2 * tile_lines;  // lines of each side that are multiplied at once

// The product of up to 32 x 32 elements, inside a TileScope: stored whole, up to 16 or 32 each way.
void multiply_corner(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                     const Output& at);

// The product on this thread, inside a TileScope.
void multiply_tiles(const TileBlock& a, const TileBlock& b, const Output& out);

// The same for a result that lies past the first cache: it is fetched ahead and written meanwhile.
void multiply_tiles_far(const TileBlock& a, const TileBlock& b, const Output& out);

// Whether tiles pay for a product of this size.
INLINE bool suits_tiles(int64_t rows, int64_t cols, int64_t depth) {
    return rows >= 16 && cols >= 16 && depth >= 16;
}
INLINE bool suits_tiles(const FeedForward& f) {
    return suits_tiles(f.rows, f.hidden, f.inputs) && f.outputs >= 16;
}

// These run on the pool.
void gemm_bf16(const Matrix& a, const Matrix& b, const Output& out);
void feed_forward_bf16(const FeedForward& f, const float* x, const float* weight1,
                       const float* bias1, const float* weight2, const float* bias2,
                       const float* residual, float* hidden, float* out);
void feed_forward_backward_bf16(const FeedForward& f, const float* grad, const float* x,
                                const float* weight1, const float* weight2, const float* hidden,
                                Gradient dx, Gradient dweight1, Gradient dbias1, Gradient dweight2,
                                Gradient dbias2);

// The lower 16 numbers, then the upper, rounded to nearest even.
INLINE __m512i round_pair(vf low, vf high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// The same, in turn: one row of a tile by pairs of depth.
INLINE vf round_and_pair(vf even, vf odd) {
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vf)_mm512_permutexvar_epi16(interleave, round_pair(even, odd));
}

INLINE uint16_t* as_numbers(float* memory) { return reinterpret_cast<uint16_t*>(memory); }

#endif

}  // namespace minillm::MINILLM_ISA
