// Attention's products on tiles of bfloat16, for the mode that asks for them: operands are rounded as
// they are packed, scores and weights are float32.
#pragma once

#include "../precision.h"
#include "../scratch.h"
#include "attention.h"
#include "bf16.h"

namespace minillm::MINILLM_ISA {

constexpr int64_t tile_strip = 2 * tile_lines;  // rows that go through a product together

#if MINILLM_AMX

INLINE bool wants_tiles(const Attention& a) {
    return bf16_products() && suits_tiles(a.q_rows, a.k_rows, smaller(a.d, a.value_d));
}

INLINE uint16_t* numbers(float* memory) { return reinterpret_cast<uint16_t*>(memory); }

// a · b, where b begins `first` tiles of depth before a does, and may go on after it ends.
INLINE void multiply_part(const TileBlock& a, const TileBlock& b, int64_t first,
                          const Output& out) {
    for (int64_t j = 0; j < b.lines; j += tile_lines)
        multiply_tiles(a,
                       {b[j / tile_lines] + first * tile_numbers,
                        smaller(tile_lines, b.lines - j), a.depth},
                       part(out, 0, j));
}

#else

struct TileScope {
    TileScope() {}
    ~TileScope() {}
};
INLINE bool wants_tiles(const Attention&) { return false; }

#endif

}  // namespace minillm::MINILLM_ISA
