// 32 x 32 elements of a product of packed tiles, so that each tile that is loaded is used twice.
#pragma once

#include "bf16.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

template <int R, int C>
INLINE void load_corner(const Output& at) {
    if (!at.start.data) {
        MINILLM_TILE_ZERO(0);
        if constexpr (C > 1) MINILLM_TILE_ZERO(1);
        if constexpr (R > 1) MINILLM_TILE_ZERO(2);
        if constexpr (R > 1 && C > 1) MINILLM_TILE_ZERO(3);
        return;
    }
    const int64_t stride = 4 * at.start.stride;
    const float* below = at.start.data + tile_lines * at.start.stride;
    MINILLM_TILE_LOAD(0, at.start.data, stride);
    if constexpr (C > 1) MINILLM_TILE_LOAD(1, at.start.data + tile_lines, stride);
    if constexpr (R > 1) MINILLM_TILE_LOAD(2, below, stride);
    if constexpr (R > 1 && C > 1) MINILLM_TILE_LOAD(3, below + tile_lines, stride);
}

template <int R, int C>
INLINE void store_corner(const Output& at) {
    const int64_t stride = 4 * at.stride;
    float* below = at.c + tile_lines * at.stride;
    MINILLM_TILE_STORE(0, at.c, stride);
    if constexpr (C > 1) MINILLM_TILE_STORE(1, at.c + tile_lines, stride);
    if constexpr (R > 1) MINILLM_TILE_STORE(2, below, stride);
    if constexpr (R > 1 && C > 1) MINILLM_TILE_STORE(3, below + tile_lines, stride);
}

// 16 R x 16 C elements; meanwhile(step) runs between the steps of depth, which leave the vector
// units idle.
template <int R, int C, class Meanwhile>
INLINE void multiply_corner_of(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                               const Output& at, const Meanwhile& meanwhile) {
    const uint16_t *above = a[row / tile_lines], *left = b[col / tile_lines];
    load_corner<R, C>(at);
    const int64_t deep = tiles_deep(a.depth);
    for (int64_t step = 0; step < deep; step++) {
        MINILLM_TILE_LOAD(6, left, 64);
        MINILLM_TILE_STREAM(4, above, 64);
        MINILLM_TILE_PRODUCT(0, 4, 6);
        if constexpr (C > 1) {
            MINILLM_TILE_LOAD(7, left + b.stride, 64);
            MINILLM_TILE_PRODUCT(1, 4, 7);
        }
        if constexpr (R > 1) {
            MINILLM_TILE_STREAM(5, above + a.stride, 64);
            MINILLM_TILE_PRODUCT(2, 5, 6);
        }
        if constexpr (R > 1 && C > 1) MINILLM_TILE_PRODUCT(3, 5, 7);
        above += tile_numbers;
        left += tile_numbers;
        meanwhile(step);
    }
    store_corner<R, C>(at);
}

// Products of corners in turn. While one is multiplied, the one before is finished:
// finish.expect(row, col, i), then finish.rows(sums, row, col, i), each for i = 0, 2, ..., 30, and
// finish.end(row, col) are called.
template <class Finish>
class Corners {
 public:
    Corners(const TileBlock& a, const TileBlock& b, const Finish& finish)
        : a_(a), b_(b), finish_(finish) {}

    void multiply(int64_t row, int64_t col) {
        float* const sums = sums_[place_];
        if (a_.lines - row > tile_lines && b_.lines - col > tile_lines) {
            const int64_t deep = tiles_deep(a_.depth);
            int64_t due = 0, expected = 0;
            multiply_corner_of<2, 2>(a_, row, b_, col, {sums, pair, {}}, [&](int64_t) {
                due += pair;
                for (; expected * deep < due; expected += 2) finish_.expect(row, col, expected);
                for (; done_ * deep < due; done_ += 2)
                    finish_.rows(sums_[1 - place_], row_, col_, done_);
            });
        } else {
            multiply_corner(a_, row, b_, col, {sums, pair, {}});
        }
        end();
        row_ = row;
        col_ = col;
        done_ = 0;
        waiting_ = true;
        place_ = 1 - place_;
    }

    void end() {
        if (!waiting_) return;
        for (; done_ < pair; done_ += 2) finish_.rows(sums_[1 - place_], row_, col_, done_);
        finish_.end(row_, col_);
        waiting_ = false;
    }

 private:
    const TileBlock a_, b_;
    const Finish& finish_;
    alignas(64) float sums_[2][pair * pair];
    int64_t row_ = 0, col_ = 0, done_ = pair;  // of the one before: where it lies, finished rows
    bool waiting_ = false;
    int place_ = 0;
};

#endif

}  // namespace minillm::MINILLM_ISA
