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

// The operand that is `near` waits in the first cache, the other passes from the second.
enum class Near { a, b };

template <int R, Near near>
INLINE void load_left(const uint16_t* above, int64_t stride) {
    if constexpr (near == Near::a) {
        MINILLM_TILE_LOAD(4, above, 64);
        if constexpr (R > 1) MINILLM_TILE_LOAD(5, above + stride, 64);
    } else {
        MINILLM_TILE_STREAM(4, above, 64);
        if constexpr (R > 1) MINILLM_TILE_STREAM(5, above + stride, 64);
    }
}
template <int C, Near near>
INLINE void load_right(const uint16_t* left, int64_t stride) {
    if constexpr (near == Near::a) {
        MINILLM_TILE_STREAM(6, left, 64);
        if constexpr (C > 1) MINILLM_TILE_STREAM(7, left + stride, 64);
    } else {
        MINILLM_TILE_LOAD(6, left, 64);
        if constexpr (C > 1) MINILLM_TILE_LOAD(7, left + stride, 64);
    }
}
template <int R, int C>
INLINE void add_products() {
    MINILLM_TILE_PRODUCT(0, 4, 6);
    if constexpr (C > 1) MINILLM_TILE_PRODUCT(1, 4, 7);
    if constexpr (R > 1) MINILLM_TILE_PRODUCT(2, 5, 6);
    if constexpr (R > 1 && C > 1) MINILLM_TILE_PRODUCT(3, 5, 7);
}

// 16 R x 16 C elements; meanwhile() runs after every product of pieces, which leave the vector
// units idle.
template <int R, int C, int pieces, Near near, class Meanwhile>
INLINE void multiply_corner_of(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                               const Output& at, const Meanwhile& meanwhile) {
    const uint16_t *above = a[row / tile_lines], *left = b[col / tile_lines];
    const int64_t below = a.stride, beside = b.stride, deep = tiles_deep(a.depth);
    load_corner<R, C>(at);
    for (int64_t step = 0; step < deep; step++) {
        if constexpr (pieces == 1) {
            load_right<C, near>(left, beside);
            load_left<R, near>(above, below);
            add_products<R, C>();
        } else {  // from the smallest to the largest, one side changes at a time
            constexpr int64_t middle = tile_numbers, low = 2 * tile_numbers;
            load_left<R, near>(above + low, below);
            load_right<C, near>(left, beside);
            add_products<R, C>();
            meanwhile();
            load_left<R, near>(above + middle, below);
            add_products<R, C>();
            meanwhile();
            load_right<C, near>(left + middle, beside);
            add_products<R, C>();
            meanwhile();
            load_left<R, near>(above, below);
            add_products<R, C>();
            meanwhile();
            load_right<C, near>(left + low, beside);
            add_products<R, C>();
            meanwhile();
            load_right<C, near>(left, beside);
            add_products<R, C>();
        }
        above += pieces * tile_numbers;
        left += pieces * tile_numbers;
        meanwhile();
    }
    store_corner<R, C>(at);
}

// Whether no sum of a corner that came of pieces is infinite or NaN: 0 times a piece that is would
// be NaN, where 0 or infinity times the whole is not.
INLINE bool all_finite(const float* sums, int64_t stride, int64_t rows, int64_t cols) {
    vf bad[4] = {};
    for (int64_t i = 0; i < rows; i += 4)
        for (int64_t j = 0; j < cols; j += W)
            for (int k = 0; k < 4; k++) bad[k] += load(sums + (i + k) * stride + j) * 0.0f;
    const vf any = (bad[0] + bad[1]) + (bad[2] + bad[3]);
    return _mm512_cmp_ps_mask(any, any, _CMP_UNORD_Q) == 0;
}

// The same sums of the whole numbers, by multiply_block.
void multiply_whole(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col, float* sums);

// A corner of the output, or of sums on their way there: `before`, if there is any, + the product.
template <int R, int C, Near near, class Meanwhile>
INLINE void sum_corner(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                       const Output& at, const Meanwhile& meanwhile) {
    if (a.pieces == 1) return multiply_corner_of<R, C, 1, near>(a, row, b, col, at, meanwhile);
    constexpr int64_t rows = R * tile_lines, cols = C * tile_lines;
    alignas(64) float sums[pair * pair];
    const bool direct = at.start.data != at.c;
    if (direct) {
        multiply_corner_of<R, C, 3, near>(a, row, b, col, at, meanwhile);
        if (all_finite(at.c, at.stride, rows, cols)) return;
        multiply_whole(a, row, b, col, sums);
    } else {
        multiply_corner_of<R, C, 3, near>(a, row, b, col, {sums, pair, {}}, meanwhile);
        if (!all_finite(sums, pair, rows, cols)) multiply_whole(a, row, b, col, sums);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += W) {
            vf sum = load(sums + i * pair + j);
            if (at.start.data) sum += load(at.start.data + i * at.start.stride + j);
            store(at.c + i * at.stride + j, sum);
        }
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
        const Output sums{sums_[place_], pair, {}};
        if (a_.lines - row > tile_lines && b_.lines - col > tile_lines) {
            const int64_t breaks = tiles_deep(a_.depth) * (a_.pieces == 1 ? 1 : 6);
            int64_t due = 0, expected = 0;
            sum_corner<2, 2, Near::b>(a_, row, b_, col, sums, [&] {
                due += pair;
                for (; expected * breaks < due; expected += 2) finish_.expect(row, col, expected);
                for (; done_ * breaks < due; done_ += 2)
                    finish_.rows(sums_[1 - place_], row_, col_, done_);
            });
        } else {
            multiply_corner(a_, row, b_, col, sums);
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
