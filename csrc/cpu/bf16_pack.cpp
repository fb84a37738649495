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

// Two vectors of a tile, of 16 pairs of such: of a line the depths 0-15 and 16-31, or of a pair of
// depth the even and the odd one of all lines. There are up to `lines` and up to `depth` numbers.
struct Row {
    vf first, second;
};

INLINE __mmask16 lanes_of(int64_t count) {
    return static_cast<__mmask16>(count >= W ? 0xffff : count > 0 ? (1u << count) - 1 : 0);
}

struct Along {
    static constexpr bool paired = false;
    Along(const Lines& from, int64_t lines, int64_t depth)
        : from_(from), lines_(lines), low_(lanes_of(depth)), high_(lanes_of(depth - W)) {}
    Row operator[](int64_t i) const {
        if (i >= lines_) return {vf{}, vf{}};
        const float* line = from_.data + i * from_.line_stride;
        return {_mm512_maskz_loadu_ps(low_, line), _mm512_maskz_loadu_ps(high_, line + W)};
    }

 private:
    const Lines& from_;
    const int64_t lines_;
    const __mmask16 low_, high_;
};

struct Across {
    static constexpr bool paired = true;
    Across(const Lines& from, int64_t lines, int64_t depth)
        : from_(from), depth_(depth), keep_(lanes_of(lines)) {}
    Row operator[](int64_t pair) const {
        const float* even = from_.data + 2 * pair * from_.depth_stride;
        const int64_t left = depth_ - 2 * pair;
        return {left > 0 ? _mm512_maskz_loadu_ps(keep_, even) : vf{},
                left > 1 ? _mm512_maskz_loadu_ps(keep_, even + from_.depth_stride) : vf{}};
    }

 private:
    const Lines& from_;
    const int64_t depth_;
    const __mmask16 keep_;
};

void gather(const Lines& from, int64_t lines, int64_t depth, float* copy) {
    for (int64_t i = 0; i < lines; i++)
        for (int64_t k = 0; k < depth; k++)
            copy[i * tile_depth + k] = from.data[i * from.line_stride + k * from.depth_stride];
}

template <bool paired, int pieces>
INLINE vf take_row(int piece, Row& row) {
    const vf first = take_piece<pieces>(piece, row.first);
    const vf second = take_piece<pieces>(piece, row.second);
    return paired ? pair_pieces<pieces>(piece, first, second) : (vf)round_pair(first, second);
}

template <bool paired, int pieces>
INLINE void put_row(Row row, float* to) {
#pragma GCC unroll 3
    for (int piece = 0; piece < pieces; piece++)
        store(to + piece * tile_numbers / 2, take_row<paired, pieces>(piece, row));
}

template <bool by_pair, int pieces, class Rows>
INLINE void write_tile(const Rows& rows, uint16_t* tile) {
    auto* to = reinterpret_cast<float*>(tile);
    if constexpr (Rows::paired == by_pair) {
        for (int i = 0; i < W; i++) {
            put_row<by_pair, pieces>(rows[i], to + i * W);
        }
    } else if constexpr (pieces == 1) {
        vf pairs[W];
        for (int i = 0; i < W; i++) {
            Row row = rows[i];
            pairs[i] = take_row<Rows::paired, 1>(0, row);
        }
        transpose(pairs);
        for (int i = 0; i < W; i++) store(to + i * W, pairs[i]);
    } else {  // turned before they are cut: that is done twice, whatever the pieces
        vf turned[2][W];
        for (int i = 0; i < W; i++) {
            const Row row = rows[i];
            vf(&half)[W] = turned[2 * i / W];
            (Rows::paired ? half[2 * i % W] : turned[0][i]) = row.first;
            (Rows::paired ? half[2 * i % W + 1] : turned[1][i]) = row.second;
        }
        for (vf(&half)[W] : turned) transpose(half);
        for (int i = 0; i < W; i++) {
            const vf(&half)[W] = turned[2 * i / W];
            put_row<by_pair, pieces>(by_pair ? Row{half[2 * i % W], half[2 * i % W + 1]}
                                             : Row{turned[0][i], turned[1][i]},
                                     to + i * W);
        }
    }
}

template <bool by_pair, int pieces>
INLINE void pack_tile(const Lines& from, int64_t lines, int64_t depth, uint16_t* tile) {
    if (from.depth_stride == 1) return write_tile<by_pair, pieces>(Along(from, lines, depth), tile);
    if (from.line_stride == 1) return write_tile<by_pair, pieces>(Across(from, lines, depth), tile);
    float copy[tile_numbers];
    gather(from, lines, depth, copy);
    const Lines gathered{copy, lines, depth, tile_depth, 1};
    write_tile<by_pair, pieces>(Along(gathered, lines, depth), tile);
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
