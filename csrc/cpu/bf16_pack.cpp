// From float32 to tiles of bfloat16. Where lines lie along depth, 32 numbers of a line become one
// row of a tile of a; where they lie across it, two neighbours in depth of 16 lines become one row
// of a tile of b. The other two cases are these followed by a transposition of pairs.
#include "bf16.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

struct Lines {
    const float* data;
    int64_t lines, depth, line_stride, depth_stride;
};

// 32 vectors of a tile: of 16 lines (up to `lines`) the depths 0-15 and 16-31 (up to `depth`), or
// of 16 pairs of depth the even and the odd one of all lines.
struct Numbers {
    vf first[W], second[W];
};

INLINE void read_along(const Lines& from, int64_t lines, int64_t depth, Numbers& to) {
    const auto low = static_cast<__mmask16>(depth >= 16 ? 0xffff : (1u << depth) - 1);
    const auto high = static_cast<__mmask16>(depth >= 32  ? 0xffff
                                             : depth > 16 ? (1u << (depth - 16)) - 1
                                                          : 0);
    for (int i = 0; i < W; i++) {
        const float* line = from.data + (i < lines ? i : 0) * from.line_stride;
        const auto keep = static_cast<__mmask16>(i < lines ? 0xffff : 0);
        to.first[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(low & keep), line);
        to.second[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(high & keep), line + 16);
    }
}

INLINE void read_across(const Lines& from, int64_t lines, int64_t depth, Numbers& to) {
    const auto keep = static_cast<__mmask16>(lines >= 16 ? 0xffff : (1u << lines) - 1);
    for (int p = 0; p < W; p++) {
        const float* first = from.data + 2 * p * from.depth_stride;
        const auto even = static_cast<__mmask16>(2 * p < depth ? keep : 0);
        const auto odd = static_cast<__mmask16>(2 * p + 1 < depth ? keep : 0);
        to.first[p] = _mm512_maskz_loadu_ps(even, first);
        to.second[p] = _mm512_maskz_loadu_ps(odd, first + from.depth_stride);
    }
}

void gather(const Lines& from, int64_t lines, int64_t depth, float* copy) {
    for (int64_t i = 0; i < lines; i++)
        for (int64_t k = 0; k < depth; k++)
            copy[i * tile_depth + k] = from.data[i * from.line_stride + k * from.depth_stride];
}

template <bool by_pair, bool paired, int pieces>
INLINE void write_tile(Numbers& numbers, uint16_t* tile) {
    for (int piece = 0; piece < pieces; piece++, tile += tile_numbers) {
        vf pairs[W];
        for (int i = 0; i < W; i++) {
            const vf first = take_piece<pieces>(piece, numbers.first[i]);
            const vf second = take_piece<pieces>(piece, numbers.second[i]);
            pairs[i] =
                paired ? pair_pieces<pieces>(piece, first, second) : (vf)round_pair(first, second);
        }
        if constexpr (paired != by_pair) transpose(pairs);
        for (int i = 0; i < W; i++) store(reinterpret_cast<float*>(tile) + i * W, pairs[i]);
    }
}

template <bool by_pair, int pieces>
INLINE void pack_tile(const Lines& from, int64_t lines, int64_t depth, uint16_t* tile) {
    Numbers numbers;
    if (from.depth_stride == 1) {
        read_along(from, lines, depth, numbers);
        write_tile<by_pair, false, pieces>(numbers, tile);
    } else if (from.line_stride == 1) {
        read_across(from, lines, depth, numbers);
        write_tile<by_pair, true, pieces>(numbers, tile);
    } else {
        float copy[tile_numbers];
        gather(from, lines, depth, copy);
        read_along({copy, lines, depth, tile_depth, 1}, lines, depth, numbers);
        write_tile<by_pair, false, pieces>(numbers, tile);
    }
}

template <bool by_pair, int pieces>
TileBlock pack(const Lines& from, uint16_t* memory, int64_t stride) {
    const int64_t deep = tiles_deep(from.depth);
    if (stride == 0) stride = deep * tile_numbers * pieces;
    const auto pack_one = [&](int64_t line, int64_t k) {
        Lines part = from;
        part.data += line * from.line_stride + k * tile_depth * from.depth_stride;
        pack_tile<by_pair, pieces>(part, smaller(tile_lines, from.lines - line),
                                   smaller(tile_depth, from.depth - k * tile_depth),
                                   memory + line / tile_lines * stride + k * tile_numbers * pieces);
    };
    if (from.depth_stride == 1)  // as they lie, so that the processor fetches ahead
        for (int64_t line = 0; line < from.lines; line += tile_lines)
            for (int64_t k = 0; k < deep; k++) pack_one(line, k);
    else
        for (int64_t k = 0; k < deep; k++)
            for (int64_t line = 0; line < from.lines; line += tile_lines) pack_one(line, k);
    return {memory, from.lines, from.depth, stride, pieces};
}

template <bool by_pair>
TileBlock pack(const Lines& from, uint16_t* memory, int64_t stride, int pieces) {
    return pieces == 1 ? pack<by_pair, 1>(from, memory, stride)
                       : pack<by_pair, 3>(from, memory, stride);
}

}  // namespace

TileBlock pack_tile_rows(const Matrix& a, uint16_t* memory, int64_t stride, int pieces) {
    return pack<false>({a.data, a.rows, a.cols, a.row_stride, a.col_stride}, memory, stride,
                       pieces);
}

TileBlock pack_tile_columns(const Matrix& b, uint16_t* memory, int64_t stride, int pieces) {
    return pack<true>({b.data, b.cols, b.rows, b.col_stride, b.row_stride}, memory, stride, pieces);
}

#endif

}  // namespace minillm::MINILLM_ISA
