// Loops over arrays and their rows, cut into chunks by size alone.
#pragma once

#include "../kernels.h"
#include "../parallel.h"
#include "../scratch.h"
#include "vec.h"

namespace minillm::MINILLM_ISA {

constexpr int64_t chunk_floats = 1 << 14;

// Calls f(first, end) for consecutive ranges of n elements.
template <class F>
static inline void for_each_range(int64_t n, const F& f) {
    parallel_for(ceil_div(n, chunk_floats), [&](int64_t chunk) {
        f(chunk * chunk_floats, smaller(n, (chunk + 1) * chunk_floats));
    });
}

// Calls f(i, lanes) for every vector of n elements.
template <class F>
static inline void for_each_vector(int64_t n, const F& f) {
    for_each_range(n, [&](int64_t first, int64_t end) { over_vectors(first, end, f); });
}

INLINE int64_t rows_in_chunk(int64_t cols) { return larger(1, chunk_floats / larger(1, cols)); }

// Calls f(row) for every row.
template <class F>
static inline void for_each_row(int64_t rows, int64_t cols, const F& f) {
    const int64_t each = rows_in_chunk(cols);
    parallel_for(ceil_div(rows, each), [&](int64_t chunk) {
        for (int64_t row = chunk * each; row < smaller(rows, (chunk + 1) * each); row++) f(row);
    });
}

// The largest element but for NaN; -inf if there is none.
INLINE float row_max(const float* x, int64_t cols) {
    vf greatest[4];  // so that none waits for the one before
    for (vf& part : greatest) part = splat(-infinity());
    int64_t i = 0;
    for (; i + 4 * W <= cols; i += 4 * W)
        for (int part = 0; part < 4; part++)
            greatest[part] = max(load(x + i + part * W), greatest[part]);
    over_vectors(i, cols, [&](int64_t j, auto lanes) {
        greatest[0] = max(load(x + j, lanes, -infinity()), greatest[0]);
    });
    return largest(max(max(greatest[0], greatest[1]), max(greatest[2], greatest[3])));
}

// S sums over n elements: f(i, lanes, sums) adds to sums[0..S). Four partial sums each keep
// rounding errors and the wait for the previous addition small.
template <int S, class F>
INLINE void sum_over(int64_t n, float (&result)[S], const F& f) {
    vf sums[4][S] = {};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int part = 0; part < 4; part++) f(i + part * W, Whole{}, sums[part]);
    over_vectors(i, n, [&](int64_t j, auto lanes) { f(j, lanes, sums[0]); });
    for (int s = 0; s < S; s++)
        result[s] = sum((sums[0][s] + sums[1][s]) + (sums[2][s] + sums[3][s]));
}

// The sum of the vectors f(i, lanes).
template <class F>
INLINE float sum_over(int64_t n, const F& f) {
    float result[1];
    sum_over(n, result, [&](int64_t i, auto lanes, vf* sums) { sums[0] += f(i, lanes); });
    return result[0];
}

// out[j] (+)= sum of x[i][j] over i, if it is wanted: blocks of rows, four rows at a time, then the
// blocks, which keeps reads in long runs and rounding errors small.
static inline void sum_rows(const float* x, int64_t rows, int64_t cols, Gradient out) {
    if (!out.data) return;
    constexpr int64_t block = 128, wide = 2048, together = 4;
    const int64_t blocks = ceil_div(rows, block), strips = ceil_div(cols, wide);
    const Scratch memory(blocks * cols);
    float* sums = memory;
    parallel_for(blocks * strips, [&](int64_t task) {
        const int64_t first = task / strips * block, end = smaller(rows, first + block);
        const int64_t col = task % strips * wide, width = smaller(wide, cols - col);
        float* sum = sums + task / strips * cols + col;
        memset(sum, 0, sizeof(float) * width);
        int64_t i = first;
        for (; i + together <= end; i += together) {
            const float* row = x + i * cols + col;
            over_vectors(0, width, [=](int64_t j, auto lanes) {
                const vf low = load(row + j, lanes) + load(row + cols + j, lanes);
                const vf high = load(row + 2 * cols + j, lanes) + load(row + 3 * cols + j, lanes);
                store(sum + j, load(sum + j, lanes) + (low + high), lanes);
            });
        }
        for (; i < end; i++) {
            const float* row = x + i * cols + col;
            over_vectors(0, width, [=](int64_t j, auto lanes) {
                store(sum + j, load(sum + j, lanes) + load(row + j, lanes), lanes);
            });
        }
    });
    over_vectors(0, cols, [&](int64_t j, auto lanes) {
        vf total{};
        for (int64_t i = 0; i < blocks; i++) total += load(sums + i * cols + j, lanes);
        if (out.add) total += load(out.data + j, lanes);
        store(out.data + j, total, lanes);
    });
}

}  // namespace minillm::MINILLM_ISA
