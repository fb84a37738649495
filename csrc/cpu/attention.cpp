// Attention without the matrix of all scores: a block of keys at a time meets the queries, whose
// running maximum and sum are corrected as better maxima turn up (Milakov and Gimelshein, 2018,
// arXiv:1805.02867; Dao et al., "FlashAttention", 2022, arXiv:2205.14135).
#include "attention.h"

#include "../scratch.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t few_rows = 4;  // queries below which keys and values are not worth packing

// One task: the queries [first, end) of the heads that share kv_head.
struct Task {
    const Attention& a;
    const Heads<float>& out;
    float* lse;  // holds the running maxima meanwhile
    int64_t batch, kv_head, first, end;

    int64_t group() const { return a.heads / a.kv_heads; }
    float* lse_of(int64_t head, int64_t row) const {
        return lse + (batch * a.heads + head) * a.q_rows + row;
    }

    void run() const;
    void meet_keys(const Panels& keys, const Panels& values, int64_t first_k, int64_t cols,
                   float* scores, float* sums) const;
    void few_scores(int64_t head, int64_t row, int64_t first_k, int64_t cols, float* scores) const;
    void absorb(int64_t head, int64_t row, int64_t first_k, int64_t cols, int64_t seen,
                float* scores, float& total) const;
    void finish(int64_t head, int64_t row, float total) const;
};

// Turns a row of scores into weights under the maximum so far, and corrects what was summed before.
void Task::absorb(int64_t head, int64_t row, int64_t first_k, int64_t cols, int64_t seen,
                  float* scores, float& total) const {
    finish_scores(a, batch, head, row, first_k, seen, scores);
    float& greatest = *lse_of(head, row);
    const float now = row_max(scores, seen), joint = now > greatest ? now : greatest;
    const float shift = joint == -infinity() ? 0 : joint;
    const float fresh = sum_over(seen, [=](int64_t i, auto lanes) {
        const vf weight = exp(load(scores + i, lanes, -infinity()) - shift);
        store(scores + i, weight, lanes);
        return weight;
    });
    memset(scores + seen, 0, sizeof(float) * (cols - seen));
    if (joint != greatest) {
        const float correction = __builtin_expf(greatest - shift);
        float* sum = at(out, batch, head, row);
        over_vectors(0, a.value_d, [=](int64_t i, auto lanes) {
            store(sum + i, load(sum + i, lanes) * correction, lanes);
        });
        total *= correction;
        greatest = joint;
    }
    total += fresh;
}

void Task::few_scores(int64_t head, int64_t row, int64_t first_k, int64_t cols,
                      float* scores) const {
    const float* query = at(a.q, batch, head, row);
    for (int64_t j = 0; j < cols; j++) {
        const float* key = at(a.k, batch, kv_head, first_k + j);
        scores[j] = sum_over(a.d, [=](int64_t i, auto lanes) {
            return load(query + i, lanes) * load(key + i, lanes);
        });
    }
}

// All queries of the task against `cols` keys; `keys` is empty if they were not packed.
void Task::meet_keys(const Panels& keys, const Panels& values, int64_t first_k, int64_t cols,
                     float* scores, float* sums) const {
    for (int64_t member = 0; member < group(); member++) {
        const int64_t head = kv_head * group() + member;
        const int64_t start = larger(first, first_block_seeing(a, first_k));
        for (int64_t row = start; row < end; row += block_q) {
            const int64_t rows = smaller(block_q, end - row);
            const int64_t width = visible(a, row + rows - 1, first_k, cols);
            if (width == 0) continue;
            if (keys.packed)
                multiply_block(rows_in_place(rows_of(a.q, batch, head, row, rows, a.d)),
                               {keys.packed, keys.rows, width}, 0, ceil_div(width, NR), {}, scores,
                               block_k);
            for (int64_t i = 0; i < rows; i++) {
                float* line = scores + i * block_k;
                if (!keys.packed) few_scores(head, row + i, first_k, width, line);
                absorb(head, row + i, first_k, width, visible(a, row + i, first_k, width), line,
                       sums[member * (end - first) + row + i - first]);
            }
            float* result = at(out, batch, head, row);
            multiply_block({scores, rows, width, block_k, block_k, true}, values, 0, values.count(),
                           {result, out.row_stride}, result, out.row_stride);
        }
    }
}

void Task::finish(int64_t head, int64_t row, float total) const {
    float *sum = at(out, batch, head, row), *log_sum = lse_of(head, row);
    const float scale = total == 0 ? 0 : 1 / total;
    over_vectors(0, a.value_d, [=](int64_t i, auto lanes) {
        store(sum + i, load(sum + i, lanes) * scale, lanes);
    });
    *log_sum += total == 0 ? 0 : __builtin_logf(total);
}

void Task::run() const {
    const int64_t rows = end - first;
    const bool pack = a.q_rows * group() >= few_rows;
    const Scratch key_memory(panel_floats(a.d, block_k)), scores(block_q * block_k),
        value_memory(panel_floats(block_k, a.value_d)), sums(group() * rows);
    memset(sums, 0, sizeof(float) * group() * rows);
    for (int64_t head = kv_head * group(); head < (kv_head + 1) * group(); head++) {
        for (int64_t row = first; row < end; row++) {
            memset(at(out, batch, head, row), 0, sizeof(float) * a.value_d);
            *lse_of(head, row) = -infinity();
        }
    }
    for (int64_t first_k = 0; first_k < a.k_rows; first_k += block_k) {
        const int64_t cols = visible(a, end - 1, first_k, smaller(block_k, a.k_rows - first_k));
        if (cols == 0) break;
        const Matrix k = rows_of(a.k, batch, kv_head, first_k, cols, a.d);
        const Matrix v = rows_of(a.v, batch, kv_head, first_k, cols, a.value_d);
        const Panels keys = pack ? pack_panels(transposed(k), key_memory) : Panels{nullptr, 0, 0};
        const Panels values =
            pack ? pack_panels(v, value_memory) : panels_in_place(v, value_memory);
        meet_keys(keys, values, first_k, cols, scores, sums);
    }
    for (int64_t member = 0; member < group(); member++)
        for (int64_t row = first; row < end; row++)
            finish(kv_head * group() + member, row, sums[member * rows + row - first]);
}

}  // namespace

void finish_scores(const Attention& a, int64_t batch, int64_t head, int64_t row, int64_t first_k,
                   int64_t cols, float* scores) {
    const AttentionMask& m = a.mask;
    const int64_t offset =
        batch * m.batch_stride + head * m.head_stride + row * m.row_stride + first_k * m.col_stride;
    over_vectors(0, cols, [=](int64_t i, auto lanes) {
        store(scores + i, load(scores + i, lanes) * a.scale, lanes);
    });
    if (m.additive)
        for (int64_t j = 0; j < cols; j++) scores[j] += m.additive[offset + j * m.col_stride];
    if (m.allowed)
        for (int64_t j = 0; j < cols; j++)
            if (!m.allowed[offset + j * m.col_stride]) scores[j] = -infinity();
}

void attention_forward(const Attention& a, const Heads<float>& out, float* lse) {
    if (a.q_rows == 0) return;
    // Enough tasks for all threads; a row's result does not depend on the task it falls into.
    const int64_t pairs = a.batch * a.kv_heads, blocks = ceil_div(a.q_rows, block_q);
    const int64_t wanted = ceil_div(4 * thread_count(), larger(1, pairs));
    const int64_t each = ceil_div(blocks, smaller(blocks, wanted)) * block_q;
    const int64_t pieces = ceil_div(a.q_rows, each);
    parallel_for(pairs * pieces, [&](int64_t i) {
        const int64_t pair = i / pieces, first = i % pieces * each;
        Task{a,
             out,
             lse,
             pair / a.kv_heads,
             pair % a.kv_heads,
             first,
             smaller(a.q_rows, first + each)}
            .run();
    });
}

}  // namespace minillm::MINILLM_ISA
