// What lies between the two layers is cut into tiles as it is made, and stays in the second
// cache until the second layer has read it, a block of rows at a time. Backward, a task has
// some hidden features: corners of their gradient and of their activations, found again, become
// tiles that stay in the second cache until the weights' gradients have been made of them.
#include "activation.h"
#include "bf16_corner.h"
#include "bf16_tiles.h"
#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t many_rows = 2048;           // enough for blocks of twice the height, forward
constexpr int64_t block_rows = 128;           // of a task
constexpr int64_t slab_lines = 256;           // hidden features of a task, backward
constexpr int64_t chunk_rows = 1024;          // of backward, whose tiles stay in the third cache
constexpr int64_t packed_numbers = 1 << 20;   // of a weight, backward
constexpr int64_t strip = 256;                // of a chunk, those of a slab in the second
constexpr int64_t streamed_floats = 2 << 20;  // hidden rows from this size on bypass the cache

// Which lanes of the two vectors of a corner's row have columns.
struct Columns {
    explicit Columns(int64_t cols) : lanes{lanes_of(cols), lanes_of(larger(0, cols - W))} {}
    static __mmask16 lanes_of(int64_t count) {
        return static_cast<__mmask16>(count >= W ? 0xffff : (1u << count) - 1);
    }
    const __mmask16 lanes[2];
};
INLINE vf load_some(const float* from, __mmask16 lanes) {
    return _mm512_maskz_loadu_ps(lanes, from);
}
INLINE void store_some(float* to, vf v, __mmask16 lanes) { _mm512_mask_storeu_ps(to, lanes, v); }

template <int pieces>
struct Forward {
    const FeedForward& f;
    const float *x, *bias1;
    float* hidden;
    const Output out;
    const Tiles first{f.hidden, f.inputs, pieces}, second{f.outputs, f.hidden, pieces};
    const int64_t block = f.rows >= many_rows ? 2 * block_rows : block_rows;

    // Of a block from `row` on: hidden = sums + bias, and its activations, rounded, in tiles.
    template <class Function, bool streamed>
    struct Activate {
        const Forward& forward;
        const int64_t row, count;
        const Tiles& activated;

        void rows(const float* sums, int64_t i, int64_t j, int64_t first) const {
            for (int64_t k = first; k < smaller(first + 2, count - i); k++)
                activate(sums + k * pair, i + k, j);
        }
        void activate(const float* sums, int64_t i, int64_t j) const {
            const int64_t cols = forward.f.hidden;
            const Columns columns(cols - j);
            vf values[2];
            for (int half = 0; half < 2; half++) {
                const __mmask16 lanes = columns.lanes[half];
                vf sum = load(sums + half * W);
                if (forward.bias1) sum += load_some(forward.bias1 + j + half * W, lanes);
                float* to = forward.hidden + (row + i) * cols + j + half * W;
                if (!streamed)
                    store_some(to, sum, lanes);
                else if (lanes)
                    _mm512_stream_ps(to, sum);
                values[half] = _mm512_maskz_mov_ps(lanes, Function::value(sum));
            }
            uint16_t* to = activated.at(i, j) + i % tile_lines * tile_depth;
            for (int piece = 0; piece < pieces; piece++, to += tile_numbers) {
                const vf low = take_piece<pieces>(piece, values[0]);
                _mm512_store_si512(to, round_pair(low, take_piece<pieces>(piece, values[1])));
            }
        }
        void expect(int64_t, int64_t, int64_t) const {}
        void end(int64_t, int64_t) const {}
    };

    template <class Function, bool streamed>
    void run(int64_t row) const {
        const TileScope scope;
        const int64_t rows = smaller(block, f.rows - row);
        const Tiles own(rows, f.inputs, pieces);
        const Tiles activated(ceil_div(rows, pair) * pair, f.hidden, pieces);
        if (rows % tile_lines)  // what is left there of before might not be finite
            memset(activated.at(rows, 0), 0, sizeof(uint16_t) * activated.stride());
        const TileBlock inputs = pack_tile_rows(
            part(row_major(x, f.rows, f.inputs), row, rows, 0, f.inputs), own.at(0, 0), 0, pieces);
        const Activate<Function, streamed> activate{*this, row, rows, activated};
        Corners corners(inputs, first.block(), activate);
        for (int64_t j = 0; j < f.hidden; j += pair)
            for (int64_t i = 0; i < rows; i += pair) corners.multiply(i, j);
        corners.end();
        if (streamed) _mm_sfence();
        multiply_tiles_far(part(activated.block(), 0, rows, 0, f.hidden), second.block(),
                           part(out, row, 0));
    }

    template <class Function>
    void run_all() const {
        const bool streamed = f.rows * f.hidden >= streamed_floats && f.hidden % W == 0 &&
                              reinterpret_cast<uintptr_t>(hidden) % (4 * W) == 0;
        parallel_for(ceil_div(f.rows, block), [&](int64_t task) {
            streamed ? run<Function, true>(task * block) : run<Function, false>(task * block);
        });
    }
};

template <int pieces>
struct Backward {
    const FeedForward& f;
    const float *grad, *x, *weight1, *weight2, *hidden;
    const Gradient dx, dweight1, dweight2;
    const int64_t tall = smaller(chunk_rows, f.rows);
    const Tiles inputs{f.inputs, tall, pieces}, grads{f.outputs, tall, pieces};
    const Tiles grads_by_row{tall, f.outputs, pieces};
    const Tiles by_row{ceil_div(tall, pair) * pair, f.hidden,
                       pieces};  // the hidden gradient, for dx
    // The first weight, or as many columns as are packed together, to find dx.
    const Tiles first{smaller(f.inputs, ceil_div(packed_numbers, f.hidden* pair) * pair), f.hidden,
                      pieces};
    const Scratch dbias{ceil_div(f.rows, chunk_rows) * f.hidden};

    // From the gradient of the activations to that of the hidden rows, dhidden. Both it and the
    // activations go to tiles whose depth are the rows (of a and of b), dhidden also to `by_row`.
    template <class Function>
    struct Turn {
        const Backward& backward;
        const int64_t row, from, count;  // of a strip: in all, and in the chunk
        const int64_t line, lines;       // of a slab
        const Tiles &dhidden, &activated;

        const float* hidden_at(int64_t i, int64_t j) const {
            return backward.hidden + (row + i) * backward.f.hidden + line + j;
        }
        void expect(int64_t i, int64_t j, int64_t first) const {
            for (int64_t k = i + first; k < smaller(i + first + 2, count); k++) {
                __builtin_prefetch(hidden_at(k, j));
                __builtin_prefetch(hidden_at(k, j) + W);
            }
        }
        void rows(const float* sums, int64_t i, int64_t j, int64_t first) const {
            const Columns columns(lines - j);
            vf slopes[2][2] = {}, values[2][2] = {};
            for (int64_t odd = 0; odd < 2; odd++) {
                const int64_t k = i + first + odd;
                if (k >= count) break;
                const float *from = hidden_at(k, j), *sum = sums + (first + odd) * pair;
                for (int half = 0; half < 2; half++) {
                    const __mmask16 lanes = columns.lanes[half];
                    const Bend bend = Function::bend(load_some(from + half * W, lanes));
                    slopes[odd][half] = load_some(sum + half * W, lanes) * bend.slope;
                    values[odd][half] = bend.value;
                }
            }
            float* bias = backward.dbias + row / chunk_rows * backward.f.hidden + line + j;
            for (int half = 0; half < 2; half++) {
                const __mmask16 lanes = columns.lanes[half];
                store_some(bias + half * W,
                           load_some(bias + half * W, lanes) + (slopes[0][half] + slopes[1][half]),
                           lanes);
            }
            uint16_t* to =
                backward.by_row.at(from + i + first, line + j) + first % tile_lines * tile_depth;
            for (int piece = 0; piece < pieces; piece++, to += tile_numbers) {
                vf taken[2][2];
                for (int odd = 0; odd < 2; odd++) {
                    for (int half = 0; half < 2; half++)
                        taken[odd][half] = take_piece<pieces>(piece, slopes[odd][half]);
                    _mm512_store_si512(to + odd * tile_depth,
                                       round_pair(taken[odd][0], taken[odd][1]));
                }
                for (int half = 0; half < 2; half++) {
                    put(dhidden, i, j + half * W, first, piece, taken[0][half], taken[1][half]);
                    const vf even = take_piece<pieces>(piece, values[0][half]);
                    put(activated, i, j + half * W, first, piece, even,
                        take_piece<pieces>(piece, values[1][half]));
                }
            }
        }
        static void put(const Tiles& to, int64_t i, int64_t j, int64_t first, int piece, vf even,
                        vf odd) {
            store(reinterpret_cast<float*>(to.at(j, i) + piece * tile_numbers) + first / 2 * W,
                  pair_pieces<pieces>(piece, even, odd));
        }
        void end(int64_t i, int64_t j) const {
            for (int half = 0; half < 2; half++) {
                auto* tile = reinterpret_cast<float*>(dhidden.at(j + half * W, i));
                for (int piece = 0; piece < pieces; piece++, tile += tile_numbers / 2) {
                    vf pairs[W];
                    for (int k = 0; k < W; k++) pairs[k] = load(tile + k * W);
                    transpose(pairs);
                    for (int k = 0; k < W; k++) store(tile + k * W, pairs[k]);
                }
            }
        }
    };

    template <class Function>
    void run(int64_t row, int64_t rows, int64_t line) const {
        const TileScope scope;
        const int64_t lines = smaller(slab_lines, f.hidden - line);
        const int64_t padded = ceil_div(lines, pair) * pair;  // corners are written whole
        const Tiles dhidden(padded, strip, pieces), activated(padded, strip, pieces);
        const Tiles own(lines, f.outputs, pieces);
        const TileBlock weights = pack_tile_columns(
            part(row_major(weight2, f.outputs, f.hidden), 0, f.outputs, line, lines), own.at(0, 0),
            0, pieces);
        memset(dbias + row / chunk_rows * f.hidden + line, 0, sizeof(float) * lines);
        for (int64_t from = 0; from < rows; from += strip) {
            const int64_t count = smaller(strip, rows - from);
            const Turn<Function> turn{*this, row + from, from,    count,
                                      line,  lines,      dhidden, activated};
            Corners corners(part(grads_by_row.block(), from, count, 0, f.outputs), weights, turn);
            for (int64_t i = 0; i < count; i += pair)
                for (int64_t j = 0; j < lines; j += pair) corners.multiply(i, j);
            corners.end();
            if (dweight1.data)
                multiply_tiles_far(part(dhidden.block(), 0, lines, 0, count),
                                   part(inputs.block(), 0, f.inputs, from, count),
                                   to(dweight1, line * f.inputs, f.inputs, row + from > 0));
            if (dweight2.data)
                multiply_tiles_far(part(grads.block(), 0, f.outputs, from, count),
                                   part(activated.block(), 0, lines, 0, count),
                                   to(dweight2, line, f.hidden, row + from > 0));
        }
    }

    // Rows from a multiple of chunk_rows on.
    template <class Function>
    void run_chunk(int64_t row, int64_t rows) const {
        const Matrix g = part(row_major(grad, f.rows, f.outputs), row, rows, 0, f.outputs);
        pack_columns_together(part(row_major(x, f.rows, f.inputs), row, rows, 0, f.inputs), inputs);
        pack_rows_together(transposed(g), grads);
        pack_rows_together(g, grads_by_row);
        parallel_for(ceil_div(f.hidden, slab_lines),
                     [&](int64_t task) { run<Function>(row, rows, task * slab_lines); });
        if (!dx.data) return;
        for (int64_t col = 0; col < f.inputs; col += first.lines()) {
            const int64_t cols = smaller(first.lines(), f.inputs - col);
            pack_columns_together(
                part(row_major(weight1, f.hidden, f.inputs), 0, f.hidden, col, cols), first);
            parallel_for(ceil_div(rows, block_rows), [&](int64_t task) {
                const TileScope scope;
                const int64_t from = task * block_rows, count = smaller(block_rows, rows - from);
                multiply_tiles_far(part(by_row.block(), from, count, 0, f.hidden),
                                   part(first.block(), 0, cols, 0, f.hidden),
                                   to(dx, (row + from) * f.inputs + col, f.inputs, false));
            });
        }
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

void feed_forward_tiles(const FeedForward& f, int pieces, const float* x, const float* weight1,
                        const float* bias1, const float* weight2, const float* bias2,
                        const float* residual, float* hidden, float* out) {
    Output result{out, f.outputs, residual ? Strided{residual, f.outputs} : Strided{bias2, 0}};
    if (residual && bias2) {
        result.finish = Output::Finish::add_bias;
        result.bias = bias2;
    }
    const auto run = [&](const auto& forward) {
        pack_columns_together(transposed(row_major(weight1, f.hidden, f.inputs)), forward.first);
        pack_columns_together(transposed(row_major(weight2, f.outputs, f.hidden)), forward.second);
        dispatch(f.activation,
                 [&](auto function) { forward.template run_all<decltype(function)>(); });
    };
    if (pieces == 1)
        run(Forward<1>{f, x, bias1, hidden, result});
    else
        run(Forward<3>{f, x, bias1, hidden, result});
}

void feed_forward_backward_tiles(const FeedForward& f, int pieces, const float* grad,
                                 const float* x, const float* weight1, const float* weight2,
                                 const float* hidden, Gradient dx, Gradient dweight1,
                                 Gradient dbias1, Gradient dweight2, Gradient dbias2) {
    const auto run = [&](const auto& backward) {
        for (int64_t row = 0; row < f.rows; row += chunk_rows) {
            const int64_t rows = smaller(chunk_rows, f.rows - row);
            dispatch(f.activation, [&](auto function) {
                backward.template run_chunk<decltype(function)>(row, rows);
            });
        }
        sum_rows(backward.dbias, ceil_div(f.rows, chunk_rows), f.hidden, dbias1);
    };
    if (pieces == 1)
        run(Backward<1>{f, grad, x, weight1, weight2, hidden, dx, dweight1, dweight2});
    else
        run(Backward<3>{f, grad, x, weight1, weight2, hidden, dx, dweight1, dweight2});
    sum_rows(grad, f.rows, f.outputs, dbias2);
}

#endif

}  // namespace minillm::MINILLM_ISA
