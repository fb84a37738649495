// Whole products by tiles. The shorter side is packed by all threads and shared, the other by the
// tasks, each of which takes some of its lines.
#include "../parallel.h"
#include "bf16_far.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t most_lines = 256;           // of a task
constexpr int64_t most_depth = 8192;          // packed at a time, in pieces
constexpr int64_t shared_numbers = 16 << 20;  // of it, of the shared side
constexpr int64_t packed_lines = 512;         // of it, by a task

int64_t round_up(int64_t n, int64_t unit) { return ceil_div(n, unit) * unit; }

// Lines of a task: about two for each thread.
int64_t share(int64_t lines, int64_t unit, int64_t most) {
    return smaller(most, round_up(ceil_div(lines, 2 * thread_count()), unit));
}

// A packed side, slice by slice: a slice lies together, and uses all sets of the caches.
struct Side {
    uint16_t* memory;
    int64_t lines;  // whole groups
    int pieces;

    TileBlock at(int64_t line, int64_t lines, int64_t k, int64_t depth) const {
        const int64_t stride = tiles_deep(depth) * tile_numbers * pieces;
        return {memory + k * this->lines * pieces + line / tile_lines * stride, lines, depth,
                stride, pieces};
    }
};

// Written for both sides at once: near is the shared one. pack_shared(line, lines, k, block) packs
// into a block, pack_own likewise; to(row, col, k, depth) is where a part of the product goes.
template <Near near, class PackShared, class PackOwn, class To>
void multiply_sides(int64_t shared_lines, int64_t own_lines, int64_t depth, int pieces,
                    const PackShared& pack_shared, const PackOwn& pack_own, const To& to) {
    const int64_t chunks = ceil_div(depth * pieces, most_depth);
    const int64_t deep = round_up(ceil_div(depth, chunks), tile_depth);
    const int64_t height =
        smaller(shared_lines, larger(1, shared_numbers / (deep * pieces * pair)) * pair);
    const int64_t each = share(own_lines, pair, most_lines);
    const Scratch memory(tile_block_floats(height, deep, pieces));
    for (int64_t first = 0; first < shared_lines; first += height) {
        const int64_t count = smaller(height, shared_lines - first);
        const int64_t portion = share(count, tile_lines, packed_lines),
                      parts = ceil_div(count, portion);
        const Side shared{as_numbers(memory), round_up(count, tile_lines), pieces};
        for (int64_t start = 0; start < depth; start += deep) {
            const int64_t along = smaller(deep, depth - start), slice = cached_slice(along, pieces);
            parallel_for(parts * ceil_div(along, slice), [&](int64_t task) {
                const int64_t line = task % parts * portion, lines = smaller(portion, count - line);
                const int64_t k = task / parts * slice, part = smaller(slice, along - k);
                pack_shared(first + line, lines, start + k, shared.at(line, lines, k, part));
            });
            parallel_for(ceil_div(own_lines, each), [&](int64_t task) {
                const TileScope scope;
                const int64_t line = task * each, lines = smaller(each, own_lines - line);
                const Scratch own_memory(tile_block_floats(each, along, pieces));
                const Side own{as_numbers(own_memory), round_up(each, tile_lines), pieces};
                const auto slice_at = [&](int64_t k, int64_t part, bool again) {
                    const TileBlock mine = own.at(0, lines, k, part),
                                    common = shared.at(0, count, k, part);
                    if (!again) pack_own(line, lines, start + k, mine);
                    return near == Near::a ? Slice{common, mine} : Slice{mine, common};
                };
                if constexpr (near == Near::a)
                    Far<near>(count, lines, along, pieces, to(first, line, start, along))
                        .run(slice_at);
                else
                    Far<near>(lines, count, along, pieces, to(line, first, start, along))
                        .run(slice_at);
            });
        }
    }
}

}  // namespace

void multiply_tiles_far(const TileBlock& a, const TileBlock& b, const Output& out) {
    const auto slice_at = [&](int64_t k, int64_t depth, bool) {
        return Slice{part(a, 0, a.lines, k, depth), part(b, 0, b.lines, k, depth)};
    };
    if (a.lines > b.lines)
        Far<Near::a>(a.lines, b.lines, a.depth, a.pieces, out).run(slice_at);
    else
        Far<Near::b>(a.lines, b.lines, a.depth, a.pieces, out).run(slice_at);
}

void gemm_tiles(const Matrix& a, const Matrix& b, const Output& out, int pieces) {
    const auto rows = [&](int64_t line, int64_t lines, int64_t k, const TileBlock& block) {
        pack_tile_rows(part(a, line, lines, k, block.depth), const_cast<uint16_t*>(block.data),
                       block.stride, pieces);
    };
    const auto cols = [&](int64_t line, int64_t lines, int64_t k, const TileBlock& block) {
        pack_tile_columns(part(b, k, block.depth, line, lines), const_cast<uint16_t*>(block.data),
                          block.stride, pieces);
    };
    const auto to = [&](int64_t row, int64_t col, int64_t k, int64_t depth) {
        return slice_of(part(out, row, col), k == 0, k + depth == a.cols);
    };
    if (a.rows >= b.cols)
        multiply_sides<Near::b>(b.cols, a.rows, a.cols, pieces, cols, rows, to);
    else
        multiply_sides<Near::a>(a.rows, b.cols, a.cols, pieces, rows, cols, to);
}

#endif

}  // namespace minillm::MINILLM_ISA
