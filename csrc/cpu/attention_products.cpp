// A left operand is read in place by panels, but packed for tiles, strip by strip.
#include "attention_products.h"

#include "../precision.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

uint16_t* numbers(float* memory) { return reinterpret_cast<uint16_t*>(memory); }
const uint16_t* numbers(const float* memory) { return reinterpret_cast<const uint16_t*>(memory); }

TileBlock pack_lines(const RowBlock& lines, float* memory) {
    return pack_tile_rows({lines.data, lines.rows, lines.depth, lines.by_rows ? lines.stride : 1,
                           lines.by_rows ? 1 : lines.stride},
                          numbers(memory));
}

}  // namespace

bool wants_tiles(const Attention& a) {
    return bf16_products() && suits_tiles(a.q_rows, a.k_rows, smaller(a.d, a.value_d));
}

#else

bool wants_tiles(const Attention&) { return false; }

#endif

Products::Products(const Attention& a, int64_t deepest)
    : tiles(wants_tiles(a)),
      height(tiles ? tile_strip : MR),
      grain(tiles ? tile_depth : W),
      strip_(tiles ? height * round_up(deepest, tile_depth) / 2 : 0) {}

void Products::pack(const Matrix& right, float* memory) const {
#if MINILLM_AMX
    if (tiles) return void(pack_tile_columns(right, numbers(memory)));
#endif
    pack_panels(right, memory);
}

void Products::multiply_columns(const RowBlock& lines, const float* right, int64_t start,
                                int64_t end, const Output& to, Ahead& ahead) const {
#if MINILLM_AMX
    if (tiles) {
        const TileBlock left = pack_lines(lines, strip_);
        const TileBlock columns{numbers(right), end, lines.depth,
                                tiles_deep(lines.depth) * tile_numbers};
        return multiply_tiles(
            {left.data, round_up(left.lines, tile_lines), left.depth, left.stride},
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
    if (tiles) {
        const TileBlock left = pack_lines(lines, strip_);
        const TileBlock columns{numbers(right), cols, deep, tiles_deep(deep) * tile_numbers};
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
