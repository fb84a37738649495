// Gradients of attention from scores that are computed again: with P = exp(S - lse) and
// delta = rowsum(grad * out), dS = P * (grad V^T - delta) (Dao et al., "FlashAttention", 2022).
// The scores are found transposed: a strip of keys, as many as a tile of the product has rows,
// meets all queries of a block, so that lse and delta are vectors along the strip, and the strips
// of P^T and dS^T are read by rows, still in the first cache, by the products that give dV and dK.
// The strips of dS^T gather into a block that gives dQ.
#include "attention_products.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {
namespace {

// Whole strips, of either kind where there are two, and whole tiles.
constexpr int64_t block_q = W < 8 ? 128 : 16 * W, block_k = 16 * MR;

// The arguments of attention_backward.
struct Given {
    const Attention& a;
    const Heads<const float>&grad, &out;
    const float* lse;
    const Heads<float>&dq, &dk, &dv;
};

// Rows of queries as the products read them: transposed, or as they are.
struct Turned {
    float *by_column, *by_row;
};

// One task: everything that meets the keys and values of one head.
struct BackwardTask : Given {
    const int64_t batch, kv_head, group = a.heads / a.kv_heads;
    const int64_t span_q = round_up(smaller(block_q, a.q_rows), NR), stride = span_q + W;
    const int64_t span_k = smaller(block_k, a.k_rows), blocks = ceil_div(a.q_rows, block_q);
    const Products products{a, larger(larger(span_q, span_k), larger(a.d, a.value_d))};
    const int64_t query_floats = larger(products.floats(a.d, span_q), products.floats(span_q, a.d));
    const int64_t grad_floats =
        larger(products.floats(a.value_d, span_q), products.floats(span_q, a.value_d));
    const int64_t height = products.height;
    const Scratch weights{height * stride};                    // strip of P^T
    const Scratch dscores{round_up(span_k, height) * stride};  // block of dS^T
    const Scratch lse_memory{blocks * span_q}, delta_memory{blocks * span_q};
    const Scratch queries{2 * blocks * query_floats}, grads{2 * blocks * grad_floats};
    const Scratch keys{products.floats(span_k, a.d)};

    void run() const;
    void pack_scaled(const Matrix& q, float* memory) const;
    void prepare_head(int64_t head) const;
    Ahead after(int64_t head) const;
    void meet_block(int64_t head, int64_t block, int64_t first_k, int64_t cols, Ahead& ahead) const;
    void meet_strip(int64_t head, int64_t block, int64_t key, int64_t rows, float* ds,
                    Ahead& ahead) const;
    void find_line(int64_t head, int64_t block, int64_t key, int64_t start, int64_t end, float* p,
                   float* ds) const;
    void add_to_queries(int64_t head, int64_t block, int64_t first_k, int64_t cols,
                        Ahead& ahead) const;

    int64_t rows_in(int64_t block) const { return smaller(block_q, a.q_rows - block * block_q); }
    Turned turned(const Scratch& memory, int64_t floats, int64_t block) const {
        return {memory + 2 * block * floats, memory + (2 * block + 1) * floats};
    }
};

void clear_rows(const Heads<float>& heads, int64_t batch, int64_t head, int64_t first, int64_t end,
                int64_t cols) {
    for (int64_t row = first; row < end; row++)
        memset(at(heads, batch, head, row), 0, sizeof(float) * cols);
}

// Queries, transposed, as they meet keys.
void BackwardTask::pack_scaled(const Matrix& q, float* memory) const {
    const Scratch scaled{q.rows * q.cols};
    for (int64_t i = 0; i < q.rows; i++) {
        const float* from = q.data + i * q.row_stride;
        float* to = scaled + i * q.cols;
        over_vectors(0, q.cols, [=](int64_t d, auto lanes) {
            store(to + d, load(from + d, lanes) * a.scale, lanes);
        });
    }
    products.pack(transposed(row_major(scaled, q.rows, q.cols)), memory);
}

// Packs the queries, scaled where they meet keys, and the gradients; finds delta.
void BackwardTask::prepare_head(int64_t head) const {
    for (int64_t block = 0; block < blocks; block++) {
        const int64_t first = block * block_q, rows = rows_in(block);
        const Matrix q = rows_of(a.q, batch, head, first, rows, a.d);
        const Matrix g = rows_of(grad, batch, head, first, rows, a.value_d);
        const Turned q_panels = turned(queries, query_floats, block);
        const Turned g_panels = turned(grads, grad_floats, block);
        pack_scaled(q, q_panels.by_column);
        products.pack(q, q_panels.by_row);
        products.pack(transposed(g), g_panels.by_column);
        products.pack(g, g_panels.by_row);
        float *shifts = lse_memory + block * span_q, *deltas = delta_memory + block * span_q;
        memset(shifts, 0, sizeof(float) * span_q);
        memset(deltas, 0, sizeof(float) * span_q);
        for (int64_t i = 0; i < rows; i++) {
            const float* from = at(grad, batch, head, first + i);
            const float* o = at(out, batch, head, first + i);
            const float end = lse[(batch * a.heads + head) * a.q_rows + first + i];
            shifts[i] = end == -infinity() ? 0 : end;
            deltas[i] = sum_over(a.value_d, [=](int64_t d, auto lanes) {
                return load(from + d, lanes) * load(o + d, lanes);
            });
        }
    }
}

// From scores and grad · V^T of one key to P and dS, for the queries [start, end) of a block; 0
// where a query does not see the key, and in dS also before `start` as far as a tile may reach.
void BackwardTask::find_line(int64_t head, int64_t block, int64_t key, int64_t start, int64_t end,
                             float* p, float* ds) const {
    const int64_t first = block * block_q;
    const int64_t hidden = smaller(end, larger(start, first_seeing(a, key) - first));
    const float *shifts = lse_memory + block * span_q, *deltas = delta_memory + block * span_q;
    mask_scores(a, batch, head, first + hidden, key, rows_in(block) - hidden, true, p + hidden);
    const auto find = [=](int64_t i, vi seen) {
        const vf weight = select(seen, exp(load(p + i) - load(shifts + i)), vf{});
        const vf dscore = weight * (load(ds + i) - load(deltas + i)) * a.scale;
        store(p + i, weight);
        store(ds + i, select(seen, dscore, vf{}));
    };
    for (int64_t i = larger(0, start - round_up(MR, W)); i < start; i += W) store(ds + i, vf{});
    int64_t i = start;
    for (; i < hidden; i += W) find(i, lane_numbers() >= static_cast<int32_t>(hidden - i));
    for (; i < end; i += W) find(i, ~vi{});
}

// The next head.
Ahead BackwardTask::after(int64_t head) const {
    Ahead ahead;
    const int64_t next = batch * a.heads + head + 1;
    if (next == a.batch * a.heads) return ahead;
    const int64_t next_batch = next / a.heads, next_head = next % a.heads, pair = next_head / group;
    ahead.add(a.q, next_batch, next_head, a.q_rows, a.d);
    ahead.add(grad, next_batch, next_head, a.q_rows, a.value_d);
    ahead.add(out, next_batch, next_head, a.q_rows, a.value_d);
    ahead.add(dq, next_batch, next_head, a.q_rows, a.d);
    if (next_head % group > 0) return ahead;
    ahead.add(a.k, next_batch, pair, a.k_rows, a.d);
    ahead.add(a.v, next_batch, pair, a.k_rows, a.value_d);
    ahead.add(dk, next_batch, pair, a.k_rows, a.d);
    ahead.add(dv, next_batch, pair, a.k_rows, a.value_d);
    return ahead;
}

// `rows` keys from `key` on, whose lines of dS^T begin at ds, against a block of queries.
void BackwardTask::meet_strip(int64_t head, int64_t block, int64_t key, int64_t rows, float* ds,
                              Ahead& ahead) const {
    const int64_t count = rows_in(block), end = round_up(count, W);
    const int64_t seeing = larger(0, first_seeing(a, key) - block * block_q);
    if (seeing >= count) return;
    const int64_t start = seeing / products.grain * products.grain;
    const Turned q = turned(queries, query_floats, block), g = turned(grads, grad_floats, block);
    products.multiply_columns(rows_in_place(rows_of(a.k, batch, kv_head, key, rows, a.d)),
                              q.by_column, start, end, Output{weights, stride, {}}, ahead);
    products.multiply_columns(rows_in_place(rows_of(a.v, batch, kv_head, key, rows, a.value_d)),
                              g.by_column, start, end, Output{ds, stride, {}}, ahead);
    for (int64_t i = 0; i < rows; i++) {
        find_line(head, block, key + i, start, end, weights + i * stride, ds + i * stride);
        if (products.pieces) ahead.step();
    }
    const bool add = head > kv_head * group || block > first_seeing(a, key) / block_q;
    const int64_t first = products.pieces ? start : seeing;
    const auto absorb = [&](const float* lines, const float* panels, int64_t cols,
                            const Heads<float>& to) {
        float* result = at(to, batch, kv_head, key);
        products.multiply_rows(
            {lines + first, rows, count - first, stride, stride, true}, panels, count, first, cols,
            {result, to.row_stride, {add ? result : nullptr, to.row_stride}}, ahead);
    };
    absorb(weights, g.by_row, a.value_d, dv);
    absorb(ds, q.by_row, a.d, dk);
}

// dQ += dS · K for a block of queries and `cols` keys from first_k on.
void BackwardTask::add_to_queries(int64_t head, int64_t block, int64_t first_k, int64_t cols,
                                  Ahead& ahead) const {
    const int64_t first = block * block_q, count = rows_in(block);
    for (int64_t i = 0; i < count; i += height) {
        const int64_t rows = smaller(height, count - i);
        const int64_t depth = visible(a, first + i + rows - 1, first_k, cols);
        if (depth == 0) continue;
        float* result = at(dq, batch, head, first + i);
        products.multiply_rows(
            {dscores + i, rows, depth, 1, stride, false}, keys, cols, 0, a.d,
            {result, dq.row_stride, {first_k > 0 ? result : nullptr, dq.row_stride}}, ahead);
    }
}

void BackwardTask::meet_block(int64_t head, int64_t block, int64_t first_k, int64_t cols,
                              Ahead& ahead) const {
    for (int64_t i = 0; i < cols; i += height)
        meet_strip(head, block, first_k + i, smaller(height, cols - i), dscores + i * stride,
                   ahead);
    add_to_queries(head, block, first_k, cols, ahead);
}

void BackwardTask::run() const {
    if (a.k_rows == 0)
        for (int64_t i = 0; i < group; i++)
            clear_rows(dq, batch, kv_head * group + i, 0, a.q_rows, a.d);
    const int64_t seen = a.q_rows == 0 ? 0 : visible(a, a.q_rows - 1, 0, a.k_rows);
    clear_rows(dk, batch, kv_head, seen, a.k_rows, a.d);
    clear_rows(dv, batch, kv_head, seen, a.k_rows, a.value_d);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        prepare_head(head);
        Ahead ahead = after(head);
        for (int64_t first_k = 0; first_k < seen; first_k += block_k) {
            const int64_t cols = smaller(block_k, seen - first_k);
            products.pack(rows_of(a.k, batch, kv_head, first_k, cols, a.d), keys);
            for (int64_t i = first_seeing(a, first_k) / block_q; i < blocks; i++)
                meet_block(head, i, first_k, cols, ahead);
        }
    }
}

}  // namespace

void attention_backward(const Attention& a, const Heads<const float>& grad,
                        const Heads<const float>& out, const float* lse, const Heads<float>& dq,
                        const Heads<float>& dk, const Heads<float>& dv) {
    parallel_for(a.batch * a.kv_heads, [&](int64_t pair) {
        const BackwardTask task{
            {a, grad, out, lse, dq, dk, dv}, pair / a.kv_heads, pair % a.kv_heads};
        with_tiles(task.products.pieces, [&] { task.run(); });
    });
}

}  // namespace minillm::MINILLM_ISA
