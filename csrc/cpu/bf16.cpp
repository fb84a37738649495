// The product of packed tiles: 32 x 32 elements of the result at a time, so that each tile that is
// loaded is used twice. The smaller operand is packed by all threads, the larger by the tasks.
#include "bf16.h"

#include "../parallel.h"
#include "../scratch.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t max_depth = 1024;          // of a slice
constexpr int64_t most_lines = 256;          // of a task
constexpr int64_t shared_numbers = 4 << 20;  // packed at a time
constexpr int64_t pair = 2 * tile_lines;

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

template <int R, int C>
void multiply_corner(const uint16_t* a, const uint16_t* b, int64_t deep, const Output& at) {
    const int64_t next = deep * tile_numbers;
    load_corner<R, C>(at);
    for (int64_t k = 0; k < deep; k++, a += tile_numbers, b += tile_numbers) {
        MINILLM_TILE_LOAD(6, b, 64);
        MINILLM_TILE_LOAD(4, a, 64);
        MINILLM_TILE_PRODUCT(0, 4, 6);
        if constexpr (C > 1) {
            MINILLM_TILE_LOAD(7, b + next, 64);
            MINILLM_TILE_PRODUCT(1, 4, 7);
        }
        if constexpr (R > 1) {
            MINILLM_TILE_LOAD(5, a + next, 64);
            MINILLM_TILE_PRODUCT(2, 5, 6);
        }
        if constexpr (R > 1 && C > 1) MINILLM_TILE_PRODUCT(3, 5, 7);
    }
    store_corner<R, C>(at);
}

void multiply_any_corner(const uint16_t* a, const uint16_t* b, int64_t deep, int64_t rows,
                         int64_t cols, const Output& at) {
    if (rows > tile_lines)
        return cols > tile_lines ? multiply_corner<2, 2>(a, b, deep, at)
                                 : multiply_corner<2, 1>(a, b, deep, at);
    return cols > tile_lines ? multiply_corner<1, 2>(a, b, deep, at)
                             : multiply_corner<1, 1>(a, b, deep, at);
}

// A corner that is no multiple of whole tiles, or is to be finished, goes through other memory.
void multiply_and_finish(const uint16_t* a, const uint16_t* b, int64_t deep, int64_t rows,
                         int64_t cols, const Output& at) {
    alignas(64) float sums[pair * pair];
    multiply_any_corner(a, b, deep, rows, cols, {sums, pair, {}});
    finish(sums, pair, rows, cols, at);
}

struct Product {
    const Matrix &a, &b;
    const Output& out;
    const int64_t slices = ceil_div(a.cols, max_depth);
    const int64_t slice = ceil_div(ceil_div(a.cols, slices), tile_depth) * tile_depth;

    int64_t depth_from(int64_t k) const { return smaller(slice, a.cols - k); }

    void add(const TileBlock& rows, int64_t row, const TileBlock& cols, int64_t col,
             int64_t k) const {
        multiply_tiles(rows, cols, slice_of(part(out, row, col), k == 0, k + slice >= a.cols));
    }
};

uint16_t* numbers(const Scratch& memory) {
    return reinterpret_cast<uint16_t*>(static_cast<float*>(memory));
}

int64_t share(int64_t lines, int64_t unit) {
    return unit * smaller(most_lines / unit, ceil_div(lines, 4 * thread_count() * unit));
}

// One side, `lines` of it, is packed in common, the other in tasks. Written for both sides at once:
// pack_shared(line, count, k, depth, memory), pack_own likewise, add(own, line, shared, line, k).
template <class PackShared, class PackOwn, class Add>
void multiply(const Product& p, int64_t shared_lines, int64_t own_lines,
              const PackShared& pack_shared, const PackOwn& pack_own, const Add& add) {
    const int64_t padded = p.slices * p.slice;
    const int64_t height =
        smaller(shared_lines, larger(1, shared_numbers / (padded * pair)) * pair);
    const int64_t each = share(own_lines, pair), portion = share(height, tile_lines);
    const Scratch memory(tile_block_floats(height, padded));
    for (int64_t from = 0; from < shared_lines; from += height) {
        const int64_t count = smaller(height, shared_lines - from);
        const int64_t whole = ceil_div(count, tile_lines) * tile_lines;
        parallel_for(p.slices * ceil_div(count, portion), [&](int64_t task) {
            const int64_t k = task % p.slices * p.slice, first = task / p.slices * portion;
            const int64_t deep = ceil_div(p.depth_from(k), tile_depth) * tile_depth;
            pack_shared(from + first, smaller(portion, count - first), k, p.depth_from(k),
                        numbers(memory) + k * whole + first * deep);
        });
        parallel_for(ceil_div(own_lines, each), [&](int64_t task) {
            const TileScope scope;
            const int64_t first = task * each, lines = smaller(each, own_lines - first);
            const Scratch own(tile_block_floats(each, p.slice));
            for (int64_t k = 0; k < p.a.cols; k += p.slice)
                add(pack_own(first, lines, k, p.depth_from(k), numbers(own)), first,
                    TileBlock{numbers(memory) + k * whole, count, p.depth_from(k)}, from, k);
        });
    }
}

}  // namespace

// The tiles of two groups of columns stay in the first cache while all rows pass.
void multiply_tiles(const TileBlock& a, const TileBlock& b, const Output& out) {
    for (int64_t j = 0; j < b.lines; j += pair) {
        for (int64_t i = 0; i < a.lines; i += pair) {
            const int64_t rows = smaller(pair, a.lines - i), cols = smaller(pair, b.lines - j);
            const bool direct = rows % tile_lines == 0 && cols % tile_lines == 0 &&
                                out.finish == Output::Finish::none;
            (direct ? multiply_any_corner : multiply_and_finish)(
                a[i / tile_lines], b[j / tile_lines], a.tiles_deep(), rows, cols, part(out, i, j));
        }
    }
}

void gemm_bf16(const Matrix& a, const Matrix& b, const Output& out) {
    const Product p{a, b, out};
    const auto rows = [&](int64_t line, int64_t count, int64_t k, int64_t depth, uint16_t* memory) {
        return pack_tile_rows(part(a, line, count, k, depth), memory);
    };
    const auto cols = [&](int64_t line, int64_t count, int64_t k, int64_t depth, uint16_t* memory) {
        return pack_tile_columns(part(b, k, depth, line, count), memory);
    };
    if (a.rows >= b.cols)
        multiply(p, b.cols, a.rows, cols, rows,
                 [&](const TileBlock& own, int64_t row, const TileBlock& shared, int64_t col,
                     int64_t k) { p.add(own, row, shared, col, k); });
    else
        multiply(p, a.rows, b.cols, rows, cols,
                 [&](const TileBlock& own, int64_t col, const TileBlock& shared, int64_t row,
                     int64_t k) { p.add(shared, row, own, col, k); });
}

#endif

}  // namespace minillm::MINILLM_ISA
