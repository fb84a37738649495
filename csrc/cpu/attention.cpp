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
    const int64_t batch, kv_head, first, end;
    const int64_t group = a.heads / a.kv_heads;
    const bool pack = a.q_rows * group >= few_rows;
    const Scratch scores{block_q * block_k}, sums{group * (end - first)};  // of weights, by query
    const Scratch key_memory{panel_floats(a.d, block_k)};
    const Scratch value_memory{panel_floats(block_k, a.value_d)};

    void run() const;
    void clear() const;
    void meet_keys(int64_t first_k, int64_t cols) const;
    void find_scores(int64_t head, int64_t row, int64_t rows, int64_t first_k, int64_t cols,
                     int64_t width) const;
    void absorb(int64_t head, int64_t row, int64_t first_k, int64_t width, float* line) const;
    void finish(int64_t head, int64_t row) const;

    float& lse_of(int64_t head, int64_t row) const {
        return lse[(batch * a.heads + head) * a.q_rows + row];
    }
    float& sum_of(int64_t head, int64_t row) const {
        return sums[(head - kv_head * group) * (end - first) + row - first];
    }
};

// Turns a row of scores into weights under the maximum so far, and corrects what was summed before.
void Task::absorb(int64_t head, int64_t row, int64_t first_k, int64_t width, float* line) const {
    const int64_t seen = visible(a, row, first_k, width);
    finish_scores(a, batch, head, row, first_k, seen, line);
    float &greatest = lse_of(head, row), &total = sum_of(head, row);
    const float now = row_max(line, seen), joint = now > greatest ? now : greatest;
    const float shift = joint == -infinity() ? 0 : joint;
    const float fresh = sum_over(seen, [=](int64_t i, auto lanes) {
        const vf weight = exp(load(line + i, lanes, -infinity()) - shift);
        store(line + i, weight, lanes);
        return weight;
    });
    memset(line + seen, 0, sizeof(float) * (width - seen));
    if (joint != greatest) {
        const float correction = __builtin_expf(greatest - shift);
        float* result = at(out, batch, head, row);
        over_vectors(0, a.value_d, [=](int64_t i, auto lanes) {
            store(result + i, load(result + i, lanes) * correction, lanes);
        });
        total *= correction;
        greatest = joint;
    }
    total += fresh;
}

// Products of `rows` queries with the first `width` of `cols` keys.
void Task::find_scores(int64_t head, int64_t row, int64_t rows, int64_t first_k, int64_t cols,
                       int64_t width) const {
    const Matrix q = rows_of(a.q, batch, head, row, rows, a.d);
    const Matrix k = rows_of(a.k, batch, kv_head, first_k, cols, a.d);
    if (pack)
        return multiply_block(rows_in_place(q), {key_memory, a.d, width}, 0, ceil_div(width, NR),
                              {}, scores, block_k);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < width; j++) {
            const float *query = q.data + i * q.row_stride, *key = k.data + j * k.row_stride;
            scores[i * block_k + j] = sum_over(a.d, [=](int64_t d, auto lanes) {
                return load(query + d, lanes) * load(key + d, lanes);
            });
        }
    }
}

// All queries of the task against `cols` keys.
void Task::meet_keys(int64_t first_k, int64_t cols) const {
    const Matrix k = rows_of(a.k, batch, kv_head, first_k, cols, a.d);
    const Matrix v = rows_of(a.v, batch, kv_head, first_k, cols, a.value_d);
    if (pack) pack_panels(transposed(k), key_memory);
    const Panels values = pack ? pack_panels(v, value_memory) : panels_in_place(v, value_memory);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const int64_t start = larger(first, first_block_seeing(a, first_k));
        for (int64_t row = start; row < end; row += block_q) {
            const int64_t rows = smaller(block_q, end - row);
            const int64_t width = visible(a, row + rows - 1, first_k, cols);
            if (width == 0) continue;
            find_scores(head, row, rows, first_k, cols, width);
            for (int64_t i = 0; i < rows; i++)
                absorb(head, row + i, first_k, width, scores + i * block_k);
            float* result = at(out, batch, head, row);
            multiply_block({scores, rows, width, block_k, block_k, true}, values, 0, values.count(),
                           {result, out.row_stride}, result, out.row_stride);
        }
    }
}

void Task::clear() const {
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int64_t row = first; row < end; row++) {
            memset(at(out, batch, head, row), 0, sizeof(float) * a.value_d);
            lse_of(head, row) = -infinity();
            sum_of(head, row) = 0;
        }
    }
}

void Task::finish(int64_t head, int64_t row) const {
    float* result = at(out, batch, head, row);
    const float total = sum_of(head, row), scale = total == 0 ? 0 : 1 / total;
    over_vectors(0, a.value_d, [=](int64_t i, auto lanes) {
        store(result + i, load(result + i, lanes) * scale, lanes);
    });
    lse_of(head, row) += total == 0 ? 0 : __builtin_logf(total);
}

void Task::run() const {
    clear();
    for (int64_t first_k = 0; first_k < a.k_rows; first_k += block_k) {
        const int64_t cols = visible(a, end - 1, first_k, smaller(block_k, a.k_rows - first_k));
        if (cols == 0) break;
        meet_keys(first_k, cols);
    }
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (int64_t row = first; row < end; row++) finish(head, row);
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
        const int64_t batch = pair / a.kv_heads, kv_head = pair % a.kv_heads;
        Task{a, out, lse, batch, kv_head, first, smaller(a.q_rows, first + each)}.run();
    });
}

}  // namespace minillm::MINILLM_ISA
