// The products of attention: float32 panels, or tiles of bfloat16, where operands are rounded as
// they are packed, or cut into pieces, and scores and weights stay float32.
#pragma once

#include "../scratch.h"
#include "attention.h"
#include "bf16.h"

namespace minillm::MINILLM_ISA {

constexpr int64_t tile_strip = 2 * tile_lines;
constexpr int64_t tallest = tile_strip > MR ? tile_strip : MR;  // strip of either kind

int pieces_for(const Attention& a);  // 0: no tiles

// On one thread, which must hold a TileScope meanwhile if there are pieces.
class Products {
 public:
    Products(const Attention& a, int64_t deepest);

    const int pieces;      // of a number in tiles; 0: panels
    const int64_t height;  // of a strip: the lines that go through a product together
    const int64_t grain;   // elements of a line come in whole ones of these

    // Packs a right operand into memory of so many floats.
    int64_t floats(int64_t rows, int64_t cols) const;
    void pack(const Matrix& right, float* memory) const;

    // lines · right for the columns [start, end) of right, whole grains, but for end any vectors.
    // Rows of the output are written up to a whole tile.
    void multiply_columns(const RowBlock& lines, const float* right, int64_t start, int64_t end,
                          const Output& to, Ahead& ahead) const;

    // lines · right for the rows of right from `first` on, a whole grain with tiles; `deep` rows
    // and `cols` columns were packed.
    void multiply_rows(const RowBlock& lines, const float* right, int64_t deep, int64_t first,
                       int64_t cols, const Output& to, Ahead& ahead) const;

 private:
    const Scratch strip_;  // the left operand in tiles
};

#if !MINILLM_AMX
struct TileScope {
    TileScope() {}
    ~TileScope() {}
};
#endif

// work(), with this thread's tiles at hand if they are wanted.
template <class F>
INLINE void with_tiles(bool tiles, const F& work) {
    if (!tiles) return work();
    const TileScope scope;
    work();
}

}  // namespace minillm::MINILLM_ISA
