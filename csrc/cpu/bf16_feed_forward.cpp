// What lies between the two layers is rounded into tiles as it is made, a block of rows at a time.
// The layers take turns, so that the weights of one stay in the second cache. Backward, the corners
// of a block become tiles at once: of the hidden gradient for the products with both sides, of the
// activations, found again, for dweight2.
#include "../parallel.h"
#include "../scratch.h"
#include "activation.h"
#include "bf16.h"
#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t block_rows = 128;           // of a task
constexpr int64_t block_lines = 128;          // of hidden features, of a task for dweight
constexpr int64_t chunk_rows = 1024;          // of backward, whose tiles stay in the third cache
constexpr int64_t streamed_floats = 2 << 20;  // hidden rows from this size on bypass the cache

class Tiles {  // memory for a block
 public:
    Tiles(int64_t lines, int64_t depth)
        : lines_(lines), depth_(depth), memory_(tile_block_floats(lines, depth)) {}
    TileBlock block() const {
        return {numbers(), lines_, depth_, tiles_deep(depth_) * tile_numbers};
    }
    uint16_t* numbers() const { return as_numbers(memory_); }
    uint16_t* tile(int64_t line, int64_t k) const {
        return numbers() + (line / tile_lines * tiles_deep(depth_) + k / tile_depth) * tile_numbers;
    }

 private:
    const int64_t lines_, depth_;
    const Scratch memory_;
};

// Packs all lines of one side of a product, many at once.
template <class Pack>
void pack_together(int64_t lines, const Tiles& to, const Pack& pack) {
    constexpr int64_t each = 4 * tile_lines;
    parallel_for(ceil_div(lines, each), [&](int64_t task) {
        const int64_t line = task * each;
        pack(line, smaller(each, lines - line), to.tile(line, 0));
    });
}
void pack_columns_together(const Matrix& b, const Tiles& to) {
    pack_together(b.cols, to, [&](int64_t line, int64_t lines, uint16_t* memory) {
        pack_tile_columns(part(b, 0, b.rows, line, lines), memory, to.block().stride);
    });
}
void pack_rows_together(const Matrix& a, const Tiles& to) {
    pack_together(a.rows, to, [&](int64_t line, int64_t lines, uint16_t* memory) {
        pack_tile_rows(part(a, line, lines, 0, a.cols), memory, to.block().stride);
    });
}

// Calls f(j, lanes) for those of the two vectors of a row of a corner that have columns left.
template <class F>
INLINE void both_halves(int64_t cols, const F& f) {
    for (int64_t j = 0; j < smaller(cols, pair); j += W) {
        if (j + W <= cols)
            f(j, Whole{});
        else
            f(j, First{cols - j});
    }
}

INLINE void stream(float* to, vf v, Whole) { _mm512_stream_ps(to, v); }
INLINE void stream(float* to, vf v, First lanes) { store(to, v, lanes); }

// Rows of sums: hidden = sums + bias, and its activations, rounded, as rows of tiles of a.
template <class Function, bool streamed>
void activate_corner(const float* sums, int64_t rows, int64_t cols, const float* bias,
                     float* hidden, int64_t stride, uint16_t* tile, int64_t tile_stride) {
    for (int64_t i = 0; i < rows; i++) {
        vf activated[2] = {};
        both_halves(cols, [&](int64_t j, auto lanes) {
            vf sum = load(sums + i * pair + j);
            if (bias) sum += load(bias + j, lanes);
            if (streamed)
                stream(hidden + i * stride + j, sum, lanes);
            else
                store(hidden + i * stride + j, sum, lanes);
            activated[j / W] = Function::value(sum);
        });
        uint16_t* to = tile + i / tile_lines * tile_stride + i % tile_lines * tile_depth;
        _mm512_store_si512(to, round_pair(activated[0], activated[1]));
    }
}

struct Forward {
    const FeedForward& f;
    const float *x, *bias1;
    float* hidden;
    const Output out;
    const Tiles first{f.hidden, f.inputs}, second{f.outputs, f.hidden};
    const Tiles activated{ceil_div(f.rows, pair) * pair, f.hidden};

    template <class Function, bool streamed>
    void run(int64_t row) const {
        const TileScope scope;
        const int64_t rows = smaller(block_rows, f.rows - row);
        const Tiles own(rows, f.inputs);
        const TileBlock inputs = pack_tile_rows(
            part(row_major(x, f.rows, f.inputs), row, rows, 0, f.inputs), own.numbers());
        alignas(64) float sums[pair * pair];
        for (int64_t j = 0; j < f.hidden; j += pair) {
            for (int64_t i = 0; i < rows; i += pair) {
                multiply_corner(inputs, i, first.block(), j, {sums, pair, {}});
                activate_corner<Function, streamed>(
                    sums, smaller(pair, rows - i), smaller(pair, f.hidden - j),
                    bias1 ? bias1 + j : nullptr, hidden + (row + i) * f.hidden + j, f.hidden,
                    activated.tile(row + i, j), activated.block().stride);
            }
        }
        if (streamed) _mm_sfence();
    }

    template <class Function>
    void run_all() const {
        const bool streamed = f.rows * f.hidden >= streamed_floats && f.hidden % W == 0 &&
                              reinterpret_cast<uintptr_t>(hidden) % (4 * W) == 0;
        parallel_for(ceil_div(f.rows, block_rows), [&](int64_t task) {
            const int64_t row = task * block_rows;
            streamed ? run<Function, true>(row) : run<Function, false>(row);
        });
        parallel_for(ceil_div(f.rows, block_rows), [&](int64_t task) {
            const TileScope scope;
            const int64_t row = task * block_rows, rows = smaller(block_rows, f.rows - row);
            multiply_tiles(part(activated.block(), row, rows, 0, f.hidden), second.block(),
                           part(out, row, 0));
        });
    }
};

// From the gradient of the activations to that of the hidden rows, dhidden. Both it and the
// activations go to tiles whose depth are the rows (of a and of b), dhidden also to tiles by row.
template <class Function>
void bend_corner(const float* sums, int64_t rows, int64_t cols, const float* hidden, int64_t stride,
                 uint16_t* by_row, int64_t by_row_stride, uint16_t* turned, uint16_t* activated,
                 int64_t deep_stride, float* dbias) {
    vf pairs[2][W], bias_sums[2] = {};
    for (int64_t i = 0; i < pair; i += 2) {
        vf dhidden[2][2] = {}, value[2][2] = {};
        for (int64_t odd = 0; odd < 2; odd++) {
            both_halves(i + odd < rows ? cols : 0, [&](int64_t j, auto lanes) {
                const Bend bend = Function::bend(load(hidden + (i + odd) * stride + j, lanes));
                dhidden[odd][j / W] = load(sums + (i + odd) * pair + j, lanes) * bend.slope;
                value[odd][j / W] = bend.value;
                bias_sums[j / W] += dhidden[odd][j / W];
            });
            uint16_t* to =
                by_row + i / tile_lines * by_row_stride + (i % tile_lines + odd) * tile_depth;
            _mm512_store_si512(to, round_pair(dhidden[odd][0], dhidden[odd][1]));
        }
        for (int64_t half = 0; half < 2; half++) {
            pairs[half][i / 2] = round_and_pair(dhidden[0][half], dhidden[1][half]);
            store(reinterpret_cast<float*>(activated + half * deep_stride) + i / 2 * W,
                  round_and_pair(value[0][half], value[1][half]));
        }
    }
    for (int64_t half = 0; half < 2; half++) {
        transpose(pairs[half]);
        for (int i = 0; i < W; i++)
            store(reinterpret_cast<float*>(turned + half * deep_stride) + i * W, pairs[half][i]);
    }
    both_halves(cols, [&](int64_t j, auto lanes) {
        store(dbias + j, load(dbias + j, lanes) + bias_sums[j / W], lanes);
    });
}

struct Backward {
    const FeedForward& f;
    const float *grad, *x, *hidden;
    const Gradient dx;
    const int64_t padded = ceil_div(f.hidden, pair) * pair;  // corners are written whole
    const Tiles first{f.inputs, f.hidden}, second{f.hidden, f.outputs};  // weights
    const int64_t tall = smaller(chunk_rows, f.rows);
    const Tiles dhidden{padded, tall}, activated{padded, tall};
    const Tiles inputs{f.inputs, tall}, grads{f.outputs, tall};
    const Tiles by_row{ceil_div(tall, pair) * pair, f.hidden};  // dhidden for dx
    const Scratch dbias{ceil_div(f.rows, block_rows) * f.hidden};

    // Of the hidden rows, what the corner after the one at i, j will read.
    void prefetch_next(int64_t row, int64_t rows, int64_t i, int64_t j) const {
        const bool below = i + pair < rows;
        const int64_t first = row + (below ? i + pair : 0), col = below ? j : j + pair;
        if (col >= f.hidden) return;
        for (int64_t k = first; k < smaller(first + pair, row + rows); k++)
            for (int64_t l = 0; l < pair; l += 16)
                __builtin_prefetch(hidden + k * f.hidden + col + l, 0, 2);
    }

    template <class Function>
    void run(int64_t row) const {
        const TileScope scope;
        const int64_t rows = smaller(block_rows, f.rows - row);
        const Tiles own(rows, f.outputs);
        const TileBlock grads = pack_tile_rows(
            part(row_major(grad, f.rows, f.outputs), row, rows, 0, f.outputs), own.numbers());
        float* bias_sums = dbias + row / block_rows * f.hidden;
        memset(bias_sums, 0, sizeof(float) * f.hidden);
        alignas(64) float sums[pair * pair];
        for (int64_t j = 0; j < f.hidden; j += pair) {
            for (int64_t i = 0; i < rows; i += pair) {
                prefetch_next(row, rows, i, j);
                multiply_corner(grads, i, second.block(), j, {sums, pair, {}});
                bend_corner<Function>(sums, smaller(pair, rows - i), smaller(pair, f.hidden - j),
                                      hidden + (row + i) * f.hidden + j, f.hidden,
                                      by_row.tile(row % chunk_rows + i, j), by_row.block().stride,
                                      dhidden.tile(j, row % chunk_rows + i),
                                      activated.tile(j, row % chunk_rows + i),
                                      dhidden.block().stride, bias_sums + j);
            }
        }
    }

    // Rows from a multiple of chunk_rows on.
    template <class Function>
    void run_chunk(int64_t first_row, int64_t rows) const {
        parallel_for(ceil_div(rows, block_rows),
                     [&](int64_t task) { run<Function>(first_row + task * block_rows); });
        if (!dx.data) return;
        parallel_for(ceil_div(rows, block_rows), [&](int64_t task) {
            const TileScope scope;
            const int64_t row = task * block_rows, count = smaller(block_rows, rows - row);
            multiply_tiles(part(by_row.block(), row, count, 0, f.hidden), first.block(),
                           to(dx, (first_row + row) * f.inputs, f.inputs, false));
        });
    }

    // What a chunk adds to dweight1 and dweight2.
    void add_to_weights(int64_t first, int64_t rows, Gradient dweight1, Gradient dweight2) const {
        const Matrix x_rows = part(row_major(x, f.rows, f.inputs), first, rows, 0, f.inputs);
        const Matrix g_rows = part(row_major(grad, f.rows, f.outputs), first, rows, 0, f.outputs);
        pack_columns_together(x_rows, inputs);
        pack_rows_together(transposed(g_rows), grads);
        parallel_for(2 * ceil_div(f.hidden, block_lines), [&](int64_t task) {
            const TileScope scope;
            const int64_t line = task / 2 * block_lines;
            const int64_t lines = smaller(block_lines, f.hidden - line);
            if (task % 2 == 0 && dweight1.data)
                multiply_tiles(part(dhidden.block(), line, lines, 0, rows),
                               part(inputs.block(), 0, f.inputs, 0, rows),
                               to(dweight1, line * f.inputs, f.inputs, first > 0));
            if (task % 2 == 1 && dweight2.data)
                multiply_tiles(part(grads.block(), 0, f.outputs, 0, rows),
                               part(activated.block(), line, lines, 0, rows),
                               to(dweight2, line, f.hidden, first > 0));
        });
    }

    static Output to(Gradient gradient, int64_t offset, int64_t stride, bool add) {
        float* c = gradient.data + offset;
        return {c, stride, add || gradient.add ? Strided{c, stride} : Strided{}};
    }
};

template <class Run>
void dispatch(Activation activation, const Run& run) {
    switch (activation) {
        case Activation::gelu:
            return run(GeluErf{});
        case Activation::gelu_tanh:
            return run(GeluTanh{});
        case Activation::silu:
            return run(Silu{});
    }
}

}  // namespace

void feed_forward_bf16(const FeedForward& f, const float* x, const float* weight1,
                       const float* bias1, const float* weight2, const float* bias2,
                       const float* residual, float* hidden, float* out) {
    Output result{out, f.outputs, residual ? Strided{residual, f.outputs} : Strided{bias2, 0}};
    if (residual && bias2) {
        result.finish = Output::Finish::add_bias;
        result.bias = bias2;
    }
    const Forward forward{f, x, bias1, hidden, result};
    pack_columns_together(transposed(row_major(weight1, f.hidden, f.inputs)), forward.first);
    pack_columns_together(transposed(row_major(weight2, f.outputs, f.hidden)), forward.second);
    dispatch(f.activation, [&](auto function) { forward.run_all<decltype(function)>(); });
}

void feed_forward_backward_bf16(const FeedForward& f, const float* grad, const float* x,
                                const float* weight1, const float* weight2, const float* hidden,
                                Gradient dx, Gradient dweight1, Gradient dbias1, Gradient dweight2,
                                Gradient dbias2) {
    const Backward backward{f, grad, x, hidden, dx};
    pack_columns_together(row_major(weight2, f.outputs, f.hidden), backward.second);
    if (dx.data) pack_columns_together(row_major(weight1, f.hidden, f.inputs), backward.first);
    for (int64_t row = 0; row < f.rows; row += chunk_rows) {
        const int64_t rows = smaller(chunk_rows, f.rows - row);
        dispatch(f.activation,
                 [&](auto function) { backward.run_chunk<decltype(function)>(row, rows); });
        backward.add_to_weights(row, rows, dweight1, dweight2);
    }
    sum_rows(backward.dbias, ceil_div(f.rows, block_rows), f.hidden, dbias1);
    sum_rows(grad, f.rows, f.outputs, dbias2);
}

#endif

}  // namespace minillm::MINILLM_ISA
