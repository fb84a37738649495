// Attention without the matrix of all scores: a strip of queries, as many as a tile of the product
// has rows, meets all keys of a block at once. Its scores stay in the first cache from one product
// to the next, and a row's maximum and sum are final unless there are more blocks; only then are
// they corrected as better maxima turn up (Milakov and Gimelshein, 2018, arXiv:1805.02867; Dao et
// al., "FlashAttention", 2022, arXiv:2205.14135).
#include "attention_products.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t block_k = 32 * W;  // keys of a block
constexpr int64_t few_rows = 4;      // queries below which keys and values are not worth packing

// -inf from element `seen` on. Whole vectors, as the product stored them: others would have to wait
// until the cache has taken what they overlap.
INLINE void hide(float* line, int64_t seen, int64_t width) {
    for (int64_t i = seen / W * W; i < width; i += W)
        store(line + i, select(lane_numbers() < static_cast<int32_t>(seen - i), load(line + i),
                               splat(-infinity())));
}

// The sum of the vectors f(i) at i = 0, W, ..., n - W.
template <class F>
INLINE vf vector_sum_over(int64_t n, const F& f) {
    vf sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int part = 0; part < 4; part++) sums[part] += f(i + part * W);
    for (; i < n; i += W) sums[0] += f(i);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// One task: the queries [first, end) of the heads that share kv_head.
struct Task {
    const Attention& a;
    const Heads<float>& out;
    float* lse;  // holds the running maxima meanwhile
    const int64_t batch, kv_head, first, end;
    const int64_t group = a.heads / a.kv_heads;
    const int64_t keys = visible(a, end - 1, 0, a.k_rows);  // that any of these queries sees
    const int64_t span = smaller(block_k, keys), stride = round_up(span, NR) + W;
    const Products products{a, larger(span, a.d)};
    const int64_t height = products.height;
    const bool pack = products.pieces > 0 || a.q_rows* group >= few_rows;
    const Scratch scores{height * stride}, queries{height * a.d};
    const Scratch sums{group * (end - first)};  // of weights, by query
    const Scratch key_memory{pack ? products.floats(a.d, span) : 0};
    const Scratch value_memory{pack ? products.floats(span, a.value_d) : panel_floats(span, NR)};

    void run() const;
    void meet_keys(int64_t first_k, int64_t cols) const;
    void meet_strip(int64_t head, int64_t row, int64_t first_k, int64_t cols, const Panels& values,
                    Ahead& ahead) const;
    void find_scores(int64_t head, int64_t row, int64_t rows, int64_t first_k, int64_t width,
                     Ahead& ahead) const;
    void weigh(int64_t head, int64_t row, int64_t rows, int64_t first_k, int64_t width,
               Ahead& ahead) const;
    void correct(int64_t head, int64_t row, float factor) const;
    void finish(int64_t head, int64_t row) const;
    Ahead after(int64_t head) const;
    void clear() const;

    float& lse_of(int64_t head, int64_t row) const {
        return lse[(batch * a.heads + head) * a.q_rows + row];
    }
    float& sum_of(int64_t head, int64_t row) const {
        return sums[(head - kv_head * group) * (end - first) + row - first];
    }
};

// Turns a strip of scores into weights under each row's maximum so far, and corrects what was
// summed before. One step for all rows, then the next: each waits long for its results. Of a row,
// what the query sees counts; weights are written up to `width`, a multiple of W.
void Task::weigh(int64_t head, int64_t row, int64_t rows, int64_t first_k, int64_t width,
                 Ahead& ahead) const {
    float shifts[tallest];
    vf fresh[tallest];
    for (int64_t i = 0; i < rows; i++) {
        const int64_t seen = visible(a, row + i, first_k, smaller(width, keys - first_k));
        float* line = scores + i * stride;
        mask_scores(a, batch, head, row + i, first_k, seen, false, line);
        hide(line, seen, width);
        shifts[i] = row_max(line, width);
    }
    for (int64_t i = 0; i < rows; i++) {
        float &greatest = lse_of(head, row + i), &total = sum_of(head, row + i);
        const float before = first_k > 0 ? greatest : shifts[i];
        greatest = shifts[i] > before ? shifts[i] : before;
        shifts[i] = greatest == -infinity() ? 0 : greatest;
        if (first_k == 0) total = 0;
        if (greatest != before) correct(head, row + i, __builtin_expf(before - shifts[i]));
    }
    for (int64_t i = 0; i < rows; i++) {
        float* line = scores + i * stride;
        const float shift = shifts[i];
        fresh[i] = vector_sum_over(width, [=](int64_t j) {
            const vf weight = exp(load(line + j) - shift);
            store(line + j, weight);
            return weight;
        });
        if (products.pieces) ahead.step();
    }
    for (int64_t i = 0; i < rows; i++) sum_of(head, row + i) += sum(fresh[i]);
}

// The maximum of a row rose: what was summed under the former one shrinks.
void Task::correct(int64_t head, int64_t row, float factor) const {
    float* result = at(out, batch, head, row);
    over_vectors(0, a.value_d, [=](int64_t i, auto lanes) {
        store(result + i, load(result + i, lanes) * factor, lanes);
    });
    sum_of(head, row) *= factor;
}

// Products of `rows` queries with the keys [first_k, first_k + width).
void Task::find_scores(int64_t head, int64_t row, int64_t rows, int64_t first_k, int64_t width,
                       Ahead& ahead) const {
    for (int64_t i = 0; i < rows; i++) {
        const float* from = at(a.q, batch, head, row + i);
        float* to = queries + i * a.d;
        over_vectors(0, a.d, [=](int64_t d, auto lanes) {
            store(to + d, load(from + d, lanes) * a.scale, lanes);
        });
    }
    if (pack)
        return products.multiply_columns({queries, rows, a.d, a.d, a.d, true}, key_memory, 0,
                                         round_up(width, W), Output{scores, stride, {}}, ahead);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < width; j++) {
            const float *query = queries + i * a.d, *key = at(a.k, batch, kv_head, first_k + j);
            scores[i * stride + j] = sum_over(a.d, [=](int64_t d, auto lanes) {
                return load(query + d, lanes) * load(key + d, lanes);
            });
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

// A strip of queries from `row` on against `cols` keys.
void Task::meet_strip(int64_t head, int64_t row, int64_t first_k, int64_t cols,
                      const Panels& values, Ahead& ahead) const {
    const int64_t rows = smaller(height, end - row), last = row + rows - 1;
    const int64_t width = visible(a, last, first_k, cols);
    if (width > 0) {
        find_scores(head, row, rows, first_k, width, ahead);
        weigh(head, row, rows, first_k, round_up(width, W), ahead);
        float* result = at(out, batch, head, row);
        const Strided start = first_k > 0 ? Strided{result, out.row_stride} : Strided{};
        const RowBlock weights{scores, rows, width, stride, stride, true};
        const Output output{result, out.row_stride, start};
        if (pack)
            products.multiply_rows(weights, value_memory, cols, 0, a.value_d, output, ahead);
        else
            multiply_block(weights, values, 0, values.count(), output);
    }
    if (first_k + cols == keys)
        for (int64_t i = 0; i < rows; i++) finish(head, row + i);
}

// The next head, as far as tasks cover whole heads.
Ahead Task::after(int64_t head) const {
    Ahead ahead{2};
    const int64_t next = batch * a.heads + head + 1;
    if (end - first < a.q_rows || next == a.batch * a.heads) return ahead;
    const int64_t next_batch = next / a.heads, next_head = next % a.heads;
    ahead.add(a.q, next_batch, next_head, a.q_rows, a.d);
    if (next_head % group > 0) return ahead;
    ahead.add(a.k, next_batch, next_head / group, a.k_rows, a.d);
    ahead.add(a.v, next_batch, next_head / group, a.k_rows, a.value_d);
    return ahead;
}

// All queries of the task against `cols` keys.
void Task::meet_keys(int64_t first_k, int64_t cols) const {
    const Matrix v = rows_of(a.v, batch, kv_head, first_k, cols, a.value_d);
    Panels values{};
    if (pack) {
        products.pack(transposed(rows_of(a.k, batch, kv_head, first_k, cols, a.d)), key_memory);
        products.pack(v, value_memory);
    } else {
        values = panels_in_place(v, value_memory);
    }
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        Ahead ahead = first_k == 0 ? after(head) : Ahead{};
        for (int64_t row = first; row < end; row += height)
            meet_strip(head, row, first_k, cols, values, ahead);
    }
}

void Task::clear() const {
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int64_t row = first; row < end; row++) {
            memset(at(out, batch, head, row), 0, sizeof(float) * a.value_d);
            lse_of(head, row) = -infinity();
        }
    }
}

void Task::run() const {
    if (keys == 0) return clear();
    for (int64_t first_k = 0; first_k < keys; first_k += block_k)
        meet_keys(first_k, smaller(block_k, keys - first_k));
}

// Adds what `mask` holds, or hides where it is false.
INLINE void mask_line(const AttentionMask& mask, int64_t offset, int64_t step, int64_t count,
                      float* scores) {
    if (mask.additive)
        for (int64_t i = 0; i < count; i++) scores[i] += mask.additive[offset + i * step];
    else
        for (int64_t i = 0; i < count; i++)
            if (!mask.allowed[offset + i * step]) scores[i] = -infinity();
}

}  // namespace

void mask_scores(const Attention& a, int64_t batch, int64_t head, int64_t row, int64_t key,
                 int64_t count, bool by_query, float* scores) {
    const AttentionMask& m = a.mask;
    if (!m.additive && !m.allowed) return;
    mask_line(
        m, batch * m.batch_stride + head * m.head_stride + row * m.row_stride + key * m.col_stride,
        by_query ? m.row_stride : m.col_stride, count, scores);
}

void attention_forward(const Attention& a, const Heads<float>& out, float* lse) {
    if (a.q_rows == 0) return;
    // Enough tasks for all threads; a row's result does not depend on the task it falls into.
    const int64_t pairs = a.batch * a.kv_heads, strip = pieces_for(a) ? tile_strip : MR;
    const int64_t strips = ceil_div(a.q_rows, strip);
    const int64_t wanted = ceil_div(4 * thread_count(), larger(1, pairs));
    const int64_t each = ceil_div(strips, smaller(strips, wanted)) * strip;
    const int64_t pieces = ceil_div(a.q_rows, each);
    parallel_for(pairs * pieces, [&](int64_t i) {
        const int64_t pair = i / pieces, first = i % pieces * each;
        const int64_t batch = pair / a.kv_heads, kv_head = pair % a.kv_heads;
        const Task task{a, out, lse, batch, kv_head, first, smaller(a.q_rows, first + each)};
        with_tiles(task.products.pieces, [&] { task.run(); });
    });
}

}  // namespace minillm::MINILLM_ISA
