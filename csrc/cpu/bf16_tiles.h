// Memory for packed tiles, and packing by all threads.
#pragma once

#include "../parallel.h"
#include "../scratch.h"
#include "bf16.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

class Tiles {  // memory for a block
 public:
    Tiles(int64_t lines, int64_t depth, int pieces = 1)
        : lines_(lines),
          depth_(depth),
          pieces_(pieces),
          memory_(tile_block_floats(lines, depth, pieces)) {}
    int64_t stride() const { return tiles_deep(depth_) * tile_numbers * pieces_; }
    int64_t lines() const { return lines_; }
    int pieces() const { return pieces_; }
    TileBlock block() const { return {at(0, 0), lines_, depth_, stride(), pieces_}; }
    uint16_t* at(int64_t line, int64_t k) const {  // the tile, its first piece
        return as_numbers(memory_) + line / tile_lines * stride() +
               k / tile_depth * tile_numbers * pieces_;
    }

 private:
    const int64_t lines_, depth_;
    const int pieces_;
    const Scratch memory_;
};

// Packs all lines of one side of a product, many at once.
template <class Pack>
INLINE void pack_together(int64_t lines, const Tiles& to, const Pack& pack) {
    constexpr int64_t each = 4 * tile_lines;
    parallel_for(ceil_div(lines, each), [&](int64_t task) {
        const int64_t line = task * each;
        pack(line, smaller(each, lines - line), to.at(line, 0));
    });
}
INLINE void pack_columns_together(const Matrix& b, const Tiles& to) {
    pack_together(b.cols, to, [&](int64_t line, int64_t lines, uint16_t* memory) {
        pack_tile_columns(part(b, 0, b.rows, line, lines), memory, to.stride(), to.pieces());
    });
}
INLINE void pack_rows_together(const Matrix& a, const Tiles& to) {
    pack_together(a.rows, to, [&](int64_t line, int64_t lines, uint16_t* memory) {
        pack_tile_rows(part(a, line, lines, 0, a.cols), memory, to.stride(), to.pieces());
    });
}

#endif

}  // namespace minillm::MINILLM_ISA
