// A left operand is read in place by panels, but packed for tiles, strip by strip.
#include "attention_products.h"

#include "../precision.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

uint16_t* numbers(float* memory) { return reinterpret_cast<uint16_t*>(memory); }
const uint16_t* numbers(const float* memory) { return reinterpret_cast<const uint16_t*>(memory); }

TileBlock pack_lines(const RowBlock& lines, float* memory, int pieces) {
    return pack_tile_rows({lines.data, lines.rows, lines.depth, lines.by_rows ? lines.stride : 1,
                           lines.by_rows ? 1 : lines.stride},
                          numbers(memory), 0, pieces);
}

TileBlock columns_of(const float* right, int64_t cols, int64_t depth, int pieces) {
    return {numbers(right), cols, depth, tiles_deep(depth) * tile_numbers * pieces, pieces};
}

}  // namespace

int pieces_for(const Attention& a) {
    const int64_t depth = smaller(a.d, a.value_d);
    return pieces_for(a.q_rows, a.k_rows, depth);
}

#else

int pieces_for(const Attention&) { return 0; }

#endif

Products::Products(const Attention& a, int64_t deepest)
    : pieces(pieces_for(a)),
      height(pieces ? tile_strip : MR),
      grain(pieces ? tile_depth : W),
      strip_(height * round_up(deepest, tile_depth) / 2 * pieces) {}

int64_t Products::floats(int64_t rows, int64_t cols) const {
#if MINILLM_AMX
    if (pieces) return tile_block_floats(cols, rows, pieces);
#endif
    return panel_floats(rows, cols);
}

void Products::pack(const Matrix& right, float* memory) const {
#if MINILLM_AMX
    if (pieces) return void(pack_tile_columns(right, numbers(memory), 0, pieces));
#endif
    pack_panels(right, memory);
}

void Products::multiply_columns(const RowBlock& lines, const float* right, int64_t start,
                                int64_t end, const Output& to, Ahead& ahead) const {
#if MINILLM_AMX
    if (pieces) {
        const TileBlock left = pack_lines(lines, strip_, pieces);
        const TileBlock columns = columns_of(right, end, lines.depth, pieces);
        return multiply_tiles(
            {left.data, round_up(left.lines, tile_lines), left.depth, left.stride, pieces},
            part(columns, start, end - start, 0, lines.depth), part(to, 0, start));
    }
#endif
    for (int64_t j = start; j < end; j = (j / NR + 1) * NR) {
        const int64_t inside = j % NR;
        const Panels panel{right + (j - inside) * lines.depth + inside, lines.depth,
                           smaller(NR - inside, end - j)};
        multiply_block(lines, panel, 0, 1, part(to, 0, j));
        ahead.step();
    }
}

void Products::multiply_rows(const RowBlock& lines, const float* right, int64_t deep, int64_t first,
                             int64_t cols, const Output& to, Ahead& ahead) const {
#if MINILLM_AMX
    if (pieces) {
        const TileBlock left = pack_lines(lines, strip_, pieces);
        const TileBlock columns = columns_of(right, cols, deep, pieces);
        multiply_tiles(left, part(columns, 0, cols, first, left.depth), to);
        return;
    }
#endif
    for (int64_t j = 0; j < cols; j += NR) {
        const Panels panel{right + j * deep + first * NR, lines.depth, smaller(NR, cols - j)};
        multiply_block(lines, panel, 0, 1, part(to, 0, j));
        ahead.step();
    }
}

}  // namespace minillm::MINILLM_ISA
