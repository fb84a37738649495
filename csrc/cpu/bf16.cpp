// The product of packed tiles.
#include "../scratch.h"
#include "bf16_corner.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

template <int R, int C>
void multiply(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col, const Output& at) {
    sum_corner<R, C, Near::b>(a, row, b, col, at, [] {});
}

float piece_at(const uint16_t* from) {
    const uint32_t bits = uint32_t{*from} << 16;
    float number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}

// A number from its three pieces.
float whole(const uint16_t* from) {
    const float middle = piece_at(from + tile_numbers);
    if (middle == infinity() || middle == -infinity()) return middle;
    return piece_at(from) + (middle + piece_at(from + 2 * tile_numbers));
}

// 32 lines of tiles, put together again.
void widen(const TileBlock& block, int64_t line, bool by_pair, float* to, int64_t line_stride,
           int64_t depth_stride) {
    const int64_t lines = smaller(pair, ceil_div(block.lines - line, tile_lines) * tile_lines);
    for (int64_t i = 0; i < lines; i++)
        for (int64_t k = 0; k < block.depth; k++) {
            const int64_t place = by_pair
                                      ? k % tile_depth / 2 * tile_depth + i % tile_lines * 2 + k % 2
                                      : i % tile_lines * tile_depth + k % tile_depth;
            const uint16_t* from = block[(line + i) / tile_lines] +
                                   k / tile_depth * block.pieces * tile_numbers + place;
            to[i * line_stride + k * depth_stride] = whole(from);
        }
}

}  // namespace

void multiply_corner(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                     const Output& at) {
    const bool tall = a.lines - row > tile_lines, wide = b.lines - col > tile_lines;
    (tall   ? wide ? multiply<2, 2> : multiply<2, 1>
     : wide ? multiply<1, 2>
            : multiply<1, 1>)(a, row, b, col, at);
}

void multiply_whole(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col, float* sums) {
    const int64_t depth = a.depth;
    const int64_t rows = smaller(pair, ceil_div(a.lines - row, tile_lines) * tile_lines);
    const int64_t cols = smaller(pair, ceil_div(b.lines - col, tile_lines) * tile_lines);
    const Scratch left(pair * depth), right(pair * depth);
    static_assert(NR == pair);
    memset(right, 0, sizeof(float) * pair * depth);
    widen(a, row, false, left, depth, 1);
    widen(b, col, true, right, 1, NR);
    alignas(64) float whole[pair * pair];
    multiply_block({left, rows, depth, depth, depth, true}, {right, depth, cols}, 0, 1,
                   {whole, pair, {}});
    for (int64_t i = 0; i < rows; i++)
        memcpy(sums + i * pair, whole + i * pair, sizeof(float) * cols);
}

namespace {

// What is no multiple of whole tiles, or is to be finished, goes through other memory.
void multiply_slice(const TileBlock& a, const TileBlock& b, const Output& out) {
    for (int64_t j = 0; j < b.lines; j += pair) {
        for (int64_t i = 0; i < a.lines; i += pair) {
            const int64_t rows = smaller(pair, a.lines - i), cols = smaller(pair, b.lines - j);
            const Output at = part(out, i, j);
            if (rows % tile_lines == 0 && cols % tile_lines == 0 &&
                out.finish == Output::Finish::none) {
                multiply_corner(a, i, b, j, at);
            } else {
                alignas(64) float sums[pair * pair];
                multiply_corner(a, i, b, j, {sums, pair, {}});
                finish(sums, pair, rows, cols, at);
            }
        }
    }
}

// Depth of the columns that wait in the first cache, or for pieces, which are multiplied more often
// once loaded, in the second.
INLINE int64_t cached_depth(int pieces) { return pieces == 1 ? 640 : 416; }

}  // namespace

int64_t cached_slice(int64_t depth, int pieces) {
    const int64_t slices = larger(1, ceil_div(depth, cached_depth(pieces)));
    return ceil_div(ceil_div(depth, slices), tile_depth) * tile_depth;
}

// In slices of depth, so that the tiles of two groups of columns stay near while all rows pass.
void multiply_tiles(const TileBlock& a, const TileBlock& b, const Output& out) {
    const int64_t slice = cached_slice(a.depth, a.pieces);
    for (int64_t k = 0; k < a.depth; k += slice) {
        const int64_t depth = smaller(slice, a.depth - k);
        multiply_slice(part(a, 0, a.lines, k, depth), part(b, 0, b.lines, k, depth),
                       slice_of(out, k == 0, k + depth == a.depth));
    }
}

#endif

}  // namespace minillm::MINILLM_ISA
