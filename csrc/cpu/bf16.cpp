// The product of packed tiles. The smaller operand is packed by all threads, the larger by the
// tasks.
#include "../parallel.h"
#include "../scratch.h"
#include "bf16_corner.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t max_depth = 1280;          // of a slice, in pieces
constexpr int64_t most_lines = 256;          // of a task
constexpr int64_t shared_numbers = 4 << 20;  // packed at a time
constexpr int64_t enough_lines = 1024;       // of them, for how often the others are packed again

template <int R, int C>
void multiply(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col, const Output& at) {
    if (a.pieces == 1) return multiply_corner_of<R, C, 1>(a, row, b, col, at, [] {});
    multiply_corner_of<R, C, 3>(a, row, b, col, at, [] {});
    if (!all_finite(at.c, R * tile_lines, C * tile_lines)) multiply_whole(a, row, b, col, at.c);
}

float piece_at(const uint16_t* from) {
    const uint32_t bits = uint32_t{*from} << 16;
    float number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}

// A number from its three pieces.
float whole(const uint16_t* from) {
    const float middle = piece_at(from + tile_numbers);
    if (middle == infinity() || middle == -infinity()) return middle;
    return piece_at(from) + (middle + piece_at(from + 2 * tile_numbers));
}

// 32 lines of tiles, put together again.
void widen(const TileBlock& block, int64_t line, bool by_pair, float* to, int64_t line_stride,
           int64_t depth_stride) {
    const int64_t lines = smaller(pair, ceil_div(block.lines - line, tile_lines) * tile_lines);
    for (int64_t i = 0; i < lines; i++)
        for (int64_t k = 0; k < block.depth; k++) {
            const int64_t place = by_pair
                                      ? k % tile_depth / 2 * tile_depth + i % tile_lines * 2 + k % 2
                                      : i % tile_lines * tile_depth + k % tile_depth;
            const uint16_t* from = block[(line + i) / tile_lines] +
                                   k / tile_depth * block.pieces * tile_numbers + place;
            to[i * line_stride + k * depth_stride] = whole(from);
        }
}

struct Product {
    const Matrix &a, &b;
    const Output& out;
    const int pieces;
    const int64_t slices = ceil_div(a.cols * pieces, max_depth);
    const int64_t slice = ceil_div(ceil_div(a.cols, slices), tile_depth) * tile_depth;

    int64_t depth_from(int64_t k) const { return smaller(slice, a.cols - k); }

    void add(const TileBlock& rows, int64_t row, const TileBlock& cols, int64_t col,
             int64_t k) const {
        multiply_tiles_far(rows, cols, slice_of(part(out, row, col), k == 0, k + slice >= a.cols));
    }
};

int64_t share(int64_t lines, int64_t unit) {
    return unit * smaller(most_lines / unit, ceil_div(lines, 4 * thread_count() * unit));
}

// One side, the shorter, is packed in common, the other in tasks; of deep ones some slices at a
// time. Written for both sides at once: pack_shared(line, count, k, depth, memory), pack_own
// likewise, add(own, line, shared, line, k).
template <class PackShared, class PackOwn, class Add>
void multiply_sides(const Product& p, int64_t shared_lines, int64_t own_lines,
                    const PackShared& pack_shared, const PackOwn& pack_own, const Add& add) {
    const int64_t line_numbers = p.slice * p.pieces;
    const int64_t wanted = ceil_div(smaller(shared_lines, enough_lines), pair) * pair;
    const int64_t together = smaller(p.slices, larger(1, shared_numbers / (wanted * line_numbers)));
    const int64_t height =
        smaller(shared_lines, larger(1, shared_numbers / (together * line_numbers * pair)) * pair);
    const int64_t each = share(own_lines, pair), portion = share(height, tile_lines);
    const Scratch memory(tile_block_floats(height, together * p.slice, p.pieces));
    for (int64_t from = 0; from < shared_lines; from += height) {
        const int64_t count = smaller(height, shared_lines - from);
        const int64_t whole = ceil_div(count, tile_lines) * tile_lines;
        for (int64_t start = 0; start < p.a.cols; start += together * p.slice) {
            const int64_t end = smaller(p.a.cols, start + together * p.slice);
            const auto slice_at = [&](int64_t k) {
                return as_numbers(memory) + (k - start) * whole * p.pieces;
            };
            parallel_for(ceil_div(end - start, p.slice) * ceil_div(count, portion),
                         [&](int64_t task) {
                             const int64_t first = task % ceil_div(count, portion) * portion;
                             const int64_t k = start + task / ceil_div(count, portion) * p.slice;
                             const int64_t deep = tiles_deep(p.depth_from(k)) * tile_depth;
                             pack_shared(from + first, smaller(portion, count - first), k,
                                         p.depth_from(k), slice_at(k) + first * deep * p.pieces);
                         });
            parallel_for(ceil_div(own_lines, each), [&](int64_t task) {
                const TileScope scope;
                const int64_t first = task * each, lines = smaller(each, own_lines - first);
                const Scratch own(tile_block_floats(each, p.slice, p.pieces));
                for (int64_t k = start; k < end; k += p.slice)
                    add(pack_own(first, lines, k, p.depth_from(k), as_numbers(own)), first,
                        TileBlock{slice_at(k), count, p.depth_from(k),
                                  tiles_deep(p.depth_from(k)) * tile_numbers * p.pieces, p.pieces},
                        from, k);
            });
        }
    }
}

}  // namespace

void multiply_corner(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col,
                     const Output& at) {
    const bool tall = a.lines - row > tile_lines, wide = b.lines - col > tile_lines;
    (tall   ? wide ? multiply<2, 2> : multiply<2, 1>
     : wide ? multiply<1, 2>
            : multiply<1, 1>)(a, row, b, col, at);
}

void multiply_whole(const TileBlock& a, int64_t row, const TileBlock& b, int64_t col, float* sums) {
    const int64_t depth = a.depth;
    const int64_t rows = smaller(pair, ceil_div(a.lines - row, tile_lines) * tile_lines);
    const int64_t cols = smaller(pair, ceil_div(b.lines - col, tile_lines) * tile_lines);
    const Scratch left(pair * depth), right(pair * depth);
    static_assert(NR == pair);
    memset(right, 0, sizeof(float) * pair * depth);
    widen(a, row, false, left, depth, 1);
    widen(b, col, true, right, 1, NR);
    alignas(64) float whole[pair * pair];
    multiply_block({left, rows, depth, depth, depth, true}, {right, depth, cols}, 0, 1,
                   {whole, pair, {}});
    for (int64_t i = 0; i < rows; i++)
        memcpy(sums + i * pair, whole + i * pair, sizeof(float) * cols);
}

namespace {

// What is no multiple of whole tiles, or is to be finished, goes through other memory.
void multiply_slice(const TileBlock& a, const TileBlock& b, const Output& out) {
    for (int64_t j = 0; j < b.lines; j += pair) {
        for (int64_t i = 0; i < a.lines; i += pair) {
            const int64_t rows = smaller(pair, a.lines - i), cols = smaller(pair, b.lines - j);
            const Output at = part(out, i, j);
            if (a.pieces == 1 && rows % tile_lines == 0 && cols % tile_lines == 0 &&
                out.finish == Output::Finish::none) {
                multiply_corner(a, i, b, j, at);
            } else {
                alignas(64) float sums[pair * pair];
                multiply_corner(a, i, b, j, {sums, pair, {}});
                finish(sums, pair, rows, cols, at);
            }
        }
    }
}

// Sums of corners go where they belong.
struct Deliver {
    const Output& out;
    const int64_t lines, cols;

    void expect(int64_t row, int64_t col, int64_t i) const {
        for (int64_t k = row + i; k < smaller(row + i + 2, lines); k++) {
            const char* to = reinterpret_cast<const char*>(out.c + k * out.stride + col);
            for (int64_t j = 0; j < smaller(pair, cols - col); j += W) {
                asm volatile("prefetchw (%0)" : : "r"(to + 4 * j));
                if (out.start.data && out.start.stride && out.start.data != out.c)
                    __builtin_prefetch(out.start.data + k * out.start.stride + col + j);
            }
        }
    }
    void rows(const float* sums, int64_t row, int64_t col, int64_t i) const {
        const int64_t count = smaller(2, lines - row - i), width = smaller(pair, cols - col);
        if (count <= 0) return;
        const Output at = part(out, row + i, col);
        if (width < pair || at.finish == Output::Finish::activate ||
            at.finish == Output::Finish::bend)
            return finish(sums + i * pair, pair, count, width, at);
        for (int64_t k = 0; k < count; k++) {
            for (int64_t j = 0; j < pair; j += W) {
                vf sum = load(sums + (i + k) * pair + j);
                if (at.start.data) sum += load(at.start.data + k * at.start.stride + j);
                if (at.bias) sum += load(at.bias + j);
                store(at.c + k * at.stride + j, sum);
            }
        }
    }
    void end(int64_t, int64_t) const {}
};

void deliver_slice(const TileBlock& a, const TileBlock& b, const Output& out) {
    const Deliver deliver{out, a.lines, b.lines};
    Corners corners(a, b, deliver);
    for (int64_t j = 0; j < b.lines; j += pair)
        for (int64_t i = 0; i < a.lines; i += pair) corners.multiply(i, j);
    corners.end();
}

// Depth of the columns that wait in the first cache, or for pieces, which are multiplied more often
// once loaded, in the second.
INLINE int64_t cached_depth(int pieces) { return pieces == 1 ? 512 : 416; }

template <class Multiply>
void in_slices(const TileBlock& a, const TileBlock& b, const Output& out,
               const Multiply& multiply) {
    const int64_t slices = ceil_div(a.depth, cached_depth(a.pieces));
    const int64_t slice = ceil_div(ceil_div(a.depth, slices), tile_depth) * tile_depth;
    for (int64_t k = 0; k < a.depth; k += slice) {
        const int64_t depth = smaller(slice, a.depth - k);
        multiply(part(a, 0, a.lines, k, depth), part(b, 0, b.lines, k, depth),
                 slice_of(out, k == 0, k + depth == a.depth));
    }
}

}  // namespace

// In slices of depth, so that the tiles of two groups of columns stay near while all rows pass.
void multiply_tiles(const TileBlock& a, const TileBlock& b, const Output& out) {
    in_slices(a, b, out, multiply_slice);
}
void multiply_tiles_far(const TileBlock& a, const TileBlock& b, const Output& out) {
    in_slices(a, b, out, deliver_slice);
}

void gemm_tiles(const Matrix& a, const Matrix& b, const Output& out, int pieces) {
    const Product p{a, b, out, pieces};
    const auto rows = [&](int64_t line, int64_t count, int64_t k, int64_t depth, uint16_t* memory) {
        return pack_tile_rows(part(a, line, count, k, depth), memory, 0, pieces);
    };
    const auto cols = [&](int64_t line, int64_t count, int64_t k, int64_t depth, uint16_t* memory) {
        return pack_tile_columns(part(b, k, depth, line, count), memory, 0, pieces);
    };
    if (a.rows >= b.cols)
        multiply_sides(p, b.cols, a.rows, cols, rows,
                       [&](const TileBlock& own, int64_t row, const TileBlock& shared, int64_t col,
                           int64_t k) { p.add(own, row, shared, col, k); });
    else
        multiply_sides(p, a.rows, b.cols, rows, cols,
                       [&](const TileBlock& own, int64_t col, const TileBlock& shared, int64_t row,
                           int64_t k) { p.add(shared, row, own, col, k); });
}

#endif

}  // namespace minillm::MINILLM_ISA
