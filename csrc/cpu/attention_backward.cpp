// Gradients of attention from blocks of scores that are computed again: with P = exp(S - lse) and
// delta = rowsum(grad * out), dS = P * (grad V^T - delta) (Dao et al., "FlashAttention", 2022).
#include "../scratch.h"
#include "attention.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {
namespace {

// The arguments of attention_backward.
struct Given {
    const Attention& a;
    const Heads<const float>&grad, &out;
    const float* lse;
    const Heads<float>&dq, &dk, &dv;
};

// One task: everything that meets the keys and values of one head.
struct BackwardTask : Given {
    const int64_t batch, kv_head, group = a.heads / a.kv_heads;
    const Scratch weights{block_q * block_k}, dscores{block_q * block_k};  // blocks of P and dS
    const Scratch delta{group * a.q_rows};
    const Scratch queries{panel_floats(block_q, a.d)}, grads{panel_floats(block_q, a.value_d)};
    const Scratch keys{panel_floats(block_k, a.d)}, transposed_keys{panel_floats(a.d, block_k)};
    const Scratch transposed_values{panel_floats(a.value_d, block_k)};

    void clear() const;
    void meet_keys(int64_t first_k, int64_t cols) const;
    void meet_queries(int64_t head, int64_t row, int64_t first_k, int64_t cols,
                      int64_t width) const;
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
    for (int64_t member = 0; member < group; member++) {
        const int64_t head = kv_head * group + member;
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
    const float expected = delta[(head - kv_head * group) * a.q_rows + row];
    finish_scores(a, batch, head, row, first_k, seen, p);
    over_vectors(0, seen, [=](int64_t i, auto lanes) {
        const vf weight = exp(load(p + i, lanes) - shift);
        store(p + i, weight, lanes);
        store(ds + i, weight * (load(ds + i, lanes) - expected) * a.scale, lanes);
    });
    memset(p + seen, 0, sizeof(float) * (width - seen));
    memset(ds + seen, 0, sizeof(float) * (width - seen));
}

void BackwardTask::meet_queries(int64_t head, int64_t row, int64_t first_k, int64_t cols,
                                int64_t width) const {
    const int64_t rows = smaller(block_q, a.q_rows - row), panels = ceil_div(width, NR);
    const Matrix q = rows_of(a.q, batch, head, row, rows, a.d);
    const Matrix g = rows_of(grad, batch, head, row, rows, a.value_d);
    multiply_block(rows_in_place(q), {transposed_keys, a.d, width}, 0, panels, {}, weights,
                   block_k);
    multiply_block(rows_in_place(g), {transposed_values, a.value_d, width}, 0, panels, {}, dscores,
                   block_k);
    for (int64_t i = 0; i < rows; i++)
        finish_row(head, row + i, first_k, width, weights + i * block_k, dscores + i * block_k);
    const auto add = [](const RowBlock& left, const Panels& right, const Heads<float>& to,
                        float* first) {
        multiply_block(left, right, 0, right.count(), {first, to.row_stride}, first, to.row_stride);
    };
    const RowBlock p_columns{weights, width, rows, 1, block_k, false};
    const RowBlock ds_columns{dscores, width, rows, 1, block_k, false};
    add(p_columns, pack_panels(g, grads), dv, at(dv, batch, kv_head, first_k));
    add(ds_columns, pack_panels(q, queries), dk, at(dk, batch, kv_head, first_k));
    add({dscores, rows, width, block_k, block_k, true}, {keys, cols, a.d}, dq,
        at(dq, batch, head, row));
}

void BackwardTask::meet_keys(int64_t first_k, int64_t cols) const {
    const Matrix k = rows_of(a.k, batch, kv_head, first_k, cols, a.d);
    const Matrix v = rows_of(a.v, batch, kv_head, first_k, cols, a.value_d);
    pack_panels(k, keys);
    pack_panels(transposed(k), transposed_keys);
    pack_panels(transposed(v), transposed_values);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int64_t row = first_block_seeing(a, first_k); row < a.q_rows; row += block_q) {
            const int64_t last = smaller(a.q_rows, row + block_q) - 1;
            const int64_t width = visible(a, last, first_k, cols);
            if (width > 0) meet_queries(head, row, first_k, cols, width);
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
        task.clear();
        for (int64_t first_k = 0; first_k < a.k_rows; first_k += block_k)
            task.meet_keys(first_k, smaller(block_k, a.k_rows - first_k));
    });
}

}  // namespace minillm::MINILLM_ISA
