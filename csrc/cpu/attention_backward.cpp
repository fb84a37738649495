// Gradients of attention from blocks of scores that are computed again: with P = exp(S - lse) and
// delta = rowsum(grad * out), dS = P * (grad V^T - delta) (Dao et al., "FlashAttention", 2022).
#include "../scratch.h"
#include "attention.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {
namespace {

// One task: everything that meets the keys and values of one head.
struct BackwardTask {
    const Attention& a;
    const Heads<const float>&grad, &out;
    const float* lse;
    const Heads<float>&dq, &dk, &dv;
    int64_t batch, kv_head;
    float *weights, *dscores, *delta;  // blocks of P and dS; rows of delta
    float *q_memory, *grad_memory;     // packed blocks of the queries and their gradients
    float *k_memory, *key_memory, *value_memory;  // packed keys, their transposes, and the values'

    int64_t group() const { return a.heads / a.kv_heads; }
    void clear() const;
    void meet_keys(int64_t first_k, int64_t cols) const;
    void meet_queries(int64_t head, int64_t row, int64_t first_k, const Panels& k,
                      const Panels& keys, const Panels& values, int64_t width) const;
    void finish_row(int64_t head, int64_t row, int64_t first_k, int64_t width, float* p,
                    float* ds) const;
};

void clear_rows(const Heads<float>& heads, int64_t batch, int64_t head, int64_t rows,
                int64_t cols) {
    for (int64_t row = 0; row < rows; row++)
        memset(at(heads, batch, head, row), 0, sizeof(float) * cols);
}

// Gradients start at 0; delta of every query is found.
void BackwardTask::clear() const {
    clear_rows(dk, batch, kv_head, a.k_rows, a.d);
    clear_rows(dv, batch, kv_head, a.k_rows, a.value_d);
    for (int64_t member = 0; member < group(); member++) {
        const int64_t head = kv_head * group() + member;
        clear_rows(dq, batch, head, a.q_rows, a.d);
        for (int64_t row = 0; row < a.q_rows; row++) {
            const float *g = at(grad, batch, head, row), *o = at(out, batch, head, row);
            delta[member * a.q_rows + row] = sum_over(a.value_d, [=](int64_t i, auto lanes) {
                return load(g + i, lanes) * load(o + i, lanes);
            });
        }
    }
}

// From scores and grad · V^T to P and dS.
void BackwardTask::finish_row(int64_t head, int64_t row, int64_t first_k, int64_t width, float* p,
                              float* ds) const {
    const int64_t seen = visible(a, row, first_k, width);
    const float end = lse[(batch * a.heads + head) * a.q_rows + row];
    const float shift = end == -infinity() ? 0 : end;
    const float expected = delta[(head - kv_head * group()) * a.q_rows + row];
    finish_scores(a, batch, head, row, first_k, seen, p);
    over_vectors(0, seen, [=](int64_t i, auto lanes) {
        const vf weight = exp(load(p + i, lanes) - shift);
        store(p + i, weight, lanes);
        store(ds + i, weight * (load(ds + i, lanes) - expected) * a.scale, lanes);
    });
    memset(p + seen, 0, sizeof(float) * (width - seen));
    memset(ds + seen, 0, sizeof(float) * (width - seen));
}

void BackwardTask::meet_queries(int64_t head, int64_t row, int64_t first_k, const Panels& k,
                                const Panels& keys, const Panels& values, int64_t width) const {
    const int64_t rows = smaller(block_q, a.q_rows - row), panels = ceil_div(width, NR);
    const Matrix q = rows_of(a.q, batch, head, row, rows, a.d);
    const Matrix g = rows_of(grad, batch, head, row, rows, a.value_d);
    const Panels queries = pack_panels(q, q_memory), grads = pack_panels(g, grad_memory);
    multiply_block(rows_in_place(q), {keys.packed, keys.rows, width}, 0, panels, {}, weights,
                   block_k);
    multiply_block(rows_in_place(g), {values.packed, values.rows, width}, 0, panels, {}, dscores,
                   block_k);
    for (int64_t i = 0; i < rows; i++)
        finish_row(head, row + i, first_k, width, weights + i * block_k, dscores + i * block_k);
    const auto add = [](const RowBlock& left, const Panels& right, const Heads<float>& to,
                        float* first) {
        multiply_block(left, right, 0, right.count(), {first, to.row_stride}, first, to.row_stride);
    };
    const RowBlock p_columns{weights, width, rows, 1, block_k, false};
    const RowBlock ds_columns{dscores, width, rows, 1, block_k, false};
    add(p_columns, grads, dv, at(dv, batch, kv_head, first_k));
    add(ds_columns, queries, dk, at(dk, batch, kv_head, first_k));
    add({dscores, rows, width, block_k, block_k, true}, k, dq, at(dq, batch, head, row));
}

void BackwardTask::meet_keys(int64_t first_k, int64_t cols) const {
    const Matrix k = rows_of(a.k, batch, kv_head, first_k, cols, a.d);
    const Matrix v = rows_of(a.v, batch, kv_head, first_k, cols, a.value_d);
    const Panels k_panels = pack_panels(k, k_memory);
    const Panels keys = pack_panels(transposed(k), key_memory);
    const Panels values = pack_panels(transposed(v), value_memory);
    for (int64_t head = kv_head * group(); head < (kv_head + 1) * group(); head++) {
        for (int64_t row = first_block_seeing(a, first_k); row < a.q_rows; row += block_q) {
            const int64_t last = smaller(a.q_rows, row + block_q) - 1;
            const int64_t width = visible(a, last, first_k, cols);
            if (width > 0) meet_queries(head, row, first_k, k_panels, keys, values, width);
        }
    }
}

}  // namespace

void attention_backward(const Attention& a, const Heads<const float>& grad,
                        const Heads<const float>& out, const float* lse, const Heads<float>& dq,
                        const Heads<float>& dk, const Heads<float>& dv) {
    parallel_for(a.batch * a.kv_heads, [&](int64_t pair) {
        const Scratch weights(block_q * block_k), dscores(block_q * block_k),
            delta(a.heads / a.kv_heads * a.q_rows), q(panel_floats(block_q, a.d)),
            g(panel_floats(block_q, a.value_d)), k(panel_floats(block_k, a.d)),
            keys(panel_floats(a.d, block_k)), values(panel_floats(a.value_d, block_k));
        const BackwardTask task{a,
                                grad,
                                out,
                                lse,
                                dq,
                                dk,
                                dv,
                                pair / a.kv_heads,
                                pair % a.kv_heads,
                                weights,
                                dscores,
                                delta,
                                q,
                                g,
                                k,
                                keys,
                                values};
        task.clear();
        for (int64_t first_k = 0; first_k < a.k_rows; first_k += block_k)
            task.meet_keys(first_k, smaller(block_k, a.k_rows - first_k));
    });
}

}  // namespace minillm::MINILLM_ISA
