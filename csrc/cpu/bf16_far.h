// Products whose result lies past the caches: it is written once, and fetched while tiles are
// multiplied. Sums of all slices of depth but the last wait in the second cache.
#pragma once

#include "../scratch.h"
#include "bf16_corner.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

// What is brought nearer while a corner is multiplied, some lines at each step: more at once would
// hold up the tiles, and so would a store of what is left to do: it stays in registers. There is no
// end to it, as a line too much does no harm.
struct Ahead {
    const char* tiles;  // of the pair of groups that passes next: to the second cache
    int64_t below;      // bytes from one group to the other
    const char* to;     // rows of the next corner's sums: to the first
    int64_t stride;

    void step() {
        for (int i = 0; i < 2; i++, tiles += 64) {
            __builtin_prefetch(tiles, 0, 2);
            __builtin_prefetch(tiles + below, 0, 2);
        }
        for (int i = 0; i < 2; i++, to += stride) {
            asm volatile("prefetchw (%0)" : : "r"(to));
            asm volatile("prefetchw 64(%0)" : : "r"(to));
        }
    }
};

struct Slice {
    TileBlock a, b;
};

// One operand, the shorter, stays in the second cache, a slice at a time, while the other passes, a
// pair of its groups of lines at a time in the first.
template <Near near>
class Far {
 public:
    Far(int64_t rows, int64_t cols, int64_t depth, int pieces, const Output& out)
        : rows_(rows), cols_(cols), depth_(depth), slice_(cached_slice(depth, pieces)), out_(out) {}

    // slice_at(k, depth, again) gives both operands from k on.
    template <class SliceAt>
    void run(const SliceAt& slice_at) {
        for (int64_t first = 0; first < passing_; first += strip_) {
            const int64_t end = smaller(passing_, first + strip_);
            for (int64_t k = 0; k < depth_; k += slice_) {
                const int64_t depth = smaller(slice_, depth_ - k);
                const Slice slice = slice_at(k, depth, first > 0);
                left_ = slice.a;
                right_ = slice.b;
                first_ = k == 0;
                last_ = k + depth == depth_;
                for (int64_t i = first; i < end; i += pair) run_pair(i, first, end);
            }
        }
    }

 private:
    static constexpr int64_t most_sums = 128 * pair * pair;  // half a megabyte

    int64_t row_of(int64_t i, int64_t j) const { return near == Near::a ? i : j; }
    int64_t col_of(int64_t i, int64_t j) const { return near == Near::a ? j : i; }
    bool whole(int64_t row, int64_t col) const {
        return row + pair <= rows_ && col + pair <= cols_;
    }

    // Lines i and on of what passes.
    void run_pair(int64_t i, int64_t first, int64_t end) {
        const TileBlock& passes = near == Near::a ? left_ : right_;
        const int64_t group = (i + pair < end ? i + pair : i) / tile_lines;
        const int64_t bytes = tiles_deep(passes.depth) * passes.pieces * tile_numbers * 2;
        Ahead ahead;
        ahead.below = 2 * passes.stride;
        for (int64_t j = 0; j < staying_; j += pair) {
            float* sums = memory_ + (i - first) / pair * column_ + j * pair;
            const bool more = j + pair < staying_;
            const int64_t next_i = more ? i : smaller(i + pair, end - 1) / pair * pair;
            const int64_t row = row_of(next_i, more ? j + pair : 0);
            const int64_t col = col_of(next_i, more ? j + pair : 0);
            const bool direct = last_ && whole(row, col);
            ahead.tiles = reinterpret_cast<const char*>(passes[group]) + bytes * j / staying_;
            ahead.to = reinterpret_cast<const char*>(direct ? out_.c + row * out_.stride + col
                                                            : sums + pair * pair);
            ahead.stride = direct ? 4 * out_.stride : 4 * pair;
            if (first_ && out_.start.data && out_.start.stride && whole(row, col))
                fetch(part(out_.start, row, col));
            multiply(row_of(i, j), col_of(i, j), sums, ahead);
        }
    }

    static void fetch(const Strided& corner) {
        for (int64_t row = 0; row < pair; row++)
            for (int64_t j = 0; j < pair; j += W)
                __builtin_prefetch(corner.data + row * corner.stride + j);
    }

    void multiply(int64_t row, int64_t col, float* sums, Ahead ahead) {
        const int64_t rows = smaller(pair, rows_ - row), cols = smaller(pair, cols_ - col);
        alignas(64) float block[pair * pair];
        Output at{sums, pair, {first_ ? nullptr : sums, pair}};
        if (last_) at.c = block;
        if (whole(row, col) && last_ && out_.finish == Output::Finish::none) {
            at.c = out_.c + row * out_.stride + col;
            at.stride = out_.stride;
        }
        if (first_ && out_.start.data) {
            at.start = part(out_.start, row, col);
            if (!whole(row, col)) at.start = copy(at.start, rows, cols, block);
        }
        if (rows > tile_lines && cols > tile_lines)
            sum_corner<2, 2, near>(left_, row, right_, col, at, [&] { ahead.step(); });
        else
            multiply_corner(left_, row, right_, col, at);
        if (at.c != block) return;
        Output rest = part(out_, row, col);
        rest.start = {};
        finish(block, pair, rows, cols, rest);
    }

    // What is beyond counts as 0: it goes into sums that are looked at as a whole.
    static Strided copy(Strided from, int64_t rows, int64_t cols, float* block) {
        memset(block, 0, sizeof(float) * pair * pair);
        for (int64_t i = 0; i < rows; i++)
            memcpy(block + i * pair, from.data + i * from.stride, sizeof(float) * cols);
        return {block, pair};
    }

    const int64_t rows_, cols_, depth_, slice_;
    const Output out_;
    const int64_t staying_ = near == Near::a ? cols_ : rows_;  // lines
    const int64_t passing_ = near == Near::a ? rows_ : cols_;
    const int64_t column_ = ceil_div(staying_, pair) * pair * pair;  // sums of a pair that passes
    const int64_t strip_ =
        (depth_ > slice_ ? larger(1, most_sums / column_) : ceil_div(passing_, pair)) * pair;
    const Scratch memory_{depth_ > slice_ ? column_ * strip_ / pair : 0};
    TileBlock left_{}, right_{};  // of a slice
    bool first_ = true, last_ = true;
};

#endif

}  // namespace minillm::MINILLM_ISA
