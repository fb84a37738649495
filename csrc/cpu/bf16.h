// Matrix products by tiles of bfloat16, with sums in float32. A number is cut into pieces, each the
// bfloat16 nearest to what those before it leave: one where products may round their operands,
// three for float32, which they hold exactly down to 2^-102: pieces, and sums, below 2^-126 count
// as 0. Of the nine products of two numbers in three pieces the six largest are added; the rest is
// below half a unit in the last place.
#pragma once

#include "../precision.h"
#include "amx.h"
#include "gemm.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

// Lines of an operand (rows of a, columns of b) in tiles: for each 16 lines their tiles in order of
// depth, filled up with zeros, the pieces of a tile one after another. Tiles of a are by line,
// those of b by pair of depth.
struct TileBlock {
    const uint16_t* data;
    int64_t lines, depth;
    int64_t stride;  // from the tiles of 16 lines to those of the next
    int pieces = 1;

    const uint16_t* operator[](int64_t group) const { return data + group * stride; }
};

INLINE int64_t tiles_deep(int64_t depth) { return ceil_div(depth, tile_depth); }

// Lines from a multiple of 16 on, depth from a multiple of 32 on.
INLINE TileBlock part(const TileBlock& block, int64_t line, int64_t lines, int64_t k,
                      int64_t depth) {
    return {block[line / tile_lines] + k / tile_depth * tile_numbers * block.pieces, lines, depth,
            block.stride, block.pieces};
}

INLINE int64_t tile_block_floats(int64_t lines, int64_t depth, int pieces = 1) {
    return ceil_div(lines, tile_lines) * tiles_deep(depth) * tile_numbers / 2 * pieces;
}

// Memory of tile_block_floats, or whatever holds the groups of 16 lines at distances of `stride`.
TileBlock pack_tile_rows(const Matrix& a, uint16_t* memory, int64_t stride = 0, int pieces = 1);
TileBlock pack_tile_columns(const Matrix& b, uint16_t* memory, int64_t stride = 0, int pieces = 1);

constexpr int64_t pair = 2 * tile_lines;  // lines of each side that are multiplied at once

// The product of up to 32 x 32 elements, inside a TileScope: stored whole, up to 16 or 32 each way.
void multiply_corner(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                     const Output& at);

// Depth of the slices in which products add up.
int64_t cached_slice(int64_t depth, int pieces);

// The product on this thread, inside a TileScope.
void multiply_tiles(const TileBlock& a, const TileBlock& b, const Output& out);

// The same for a result that lies past the first cache: it is fetched ahead and written meanwhile.
void multiply_tiles_far(const TileBlock& a, const TileBlock& b, const Output& out);

// Whether tiles pay for a product of this size.
INLINE bool suits_tiles(int64_t rows, int64_t cols, int64_t depth) {
    return rows >= 16 && cols >= 16 && depth >= 16;
}

// The pieces that numbers of a product of this size are best cut into; 0: by vectors instead.
INLINE int pieces_for(int64_t rows, int64_t cols, int64_t depth) {
    if (bf16_products()) return suits_tiles(rows, cols, depth) ? 1 : 0;
    return rows >= 64 && cols >= 64 && depth >= 32 && rows * cols * depth >= 1 << 21 ? 3 : 0;
}
INLINE int pieces_for(const FeedForward& f) {
    const int pieces = pieces_for(f.rows, f.hidden, f.inputs);
    return pieces_for(f.rows, f.outputs, f.hidden) == pieces ? pieces : 0;
}

// These run on the pool.
void gemm_tiles(const Matrix& a, const Matrix& b, const Output& out, int pieces);
void feed_forward_tiles(const FeedForward& f, int pieces, const float* x, const float* weight1,
                        const float* bias1, const float* weight2, const float* bias2,
                        const float* residual, float* hidden, float* out);
void feed_forward_backward_tiles(const FeedForward& f, int pieces, const float* grad,
                                 const float* x, const float* weight1, const float* weight2,
                                 const float* hidden, Gradient dx, Gradient dweight1,
                                 Gradient dbias1, Gradient dweight2, Gradient dbias2);

// The lower 16 numbers, then the upper, rounded to nearest even.
INLINE __m512i round_pair(vf low, vf high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// The same, in turn: one row of a tile by pairs of depth.
INLINE vf round_and_pair(vf even, vf odd) {
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vf)_mm512_permutexvar_epi16(interleave, round_pair(even, odd));
}

// No further from 0 than the largest bfloat16 number, also infinity and NaN.
INLINE vf bounded(vf numbers) {
    constexpr int lesser_magnitude = 0b0010;  // with the sign of the first
    const vf largest = (vf)(vi{} + 0x7f7f0000);
    return (vf)_mm512_maskz_range_ps(all_lanes, numbers, largest, lesser_magnitude);
}

// A piece of some numbers, which are left with the rest. But for the last it is a bfloat16 number
// already; the last gets rounded. A large first one stays finite, so that the others make up for
// it: that way infinity is in the second, and NaN in the second or third.
template <int pieces>
INLINE vf take_piece(int piece, vf& numbers) {
    if (piece == pieces - 1) return numbers;
    const vf from = piece > 0 ? numbers : bounded(numbers);
    const vf taken = (vf)(((vu)from + 0x8000u) & 0xffff0000u);
    numbers -= taken;
    return taken;
}

// One row of a tile by pairs of depth, from pieces.
template <int pieces>
INLINE vf pair_pieces(int piece, vf even, vf odd) {
    if (piece == pieces - 1) return round_and_pair(even, odd);
    return (vf)((vu)odd | ((vu)even >> 16));
}

INLINE uint16_t* as_numbers(float* memory) { return reinterpret_cast<uint16_t*>(memory); }

#endif

}  // namespace minillm::MINILLM_ISA
