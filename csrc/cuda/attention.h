// What attention's kernels share: what a query sees, and copies of the operands as tensor cores
// want them.
#pragma once

#include <float.h>

#include <algorithm>
#include <type_traits>

#include "fragments.h"
#include "kernels.h"

namespace minillm::device {

constexpr int warps = 4, threads = warps * warp_size;  // of a block
constexpr int64_t widest_head = 128;                   // that tensor cores take
constexpr float log2_e = 1.44269504088896340736f, ln_2 = 0.693147180559945309417f;

// What the queries of one head may see. It has little to keep in registers: what a mask needs is
// found again where there is one.
struct View {
    const Attention& a;
    int batch, head;

    __device__ View(const Attention& a, int64_t batch, int64_t head)
        : a(a), batch(static_cast<int>(batch)), head(static_cast<int>(head)) {}

    __device__ bool masked() const { return a.mask.additive || a.mask.allowed; }
    __device__ int k_rows() const { return static_cast<int>(a.k_rows); }
    // Row i sees keys up to i + ahead().
    __device__ int ahead() const {
        return static_cast<int>(a.causal && a.offset < a.k_rows ? a.offset : a.k_rows);
    }
    // And with a window those from i + behind() on.
    __device__ int behind() const {
        const int64_t first = a.offset - a.window + 1;
        return static_cast<int>(first < -a.q_rows  ? -a.q_rows
                                : first < a.k_rows ? first
                                                   : a.k_rows);
    }
    __device__ bool in_window(int row, int key) const {
        return a.window == 0 || key >= row + behind();
    }
    // Of the nearest query and key there are: lanes that are past them need not go another way.
    template <class T>
    __device__ T of_mask(const T* mask, int row, int key) const {
        row = min(row, static_cast<int>(a.q_rows) - 1);
        key = min(key, k_rows() - 1);
        mask += batch * a.mask.batch_stride + head * a.mask.head_stride;
        return mask[row * static_cast<int>(a.mask.row_stride) +
                    key * static_cast<int>(a.mask.col_stride)];
    }

    // Whether all of the queries [row, row + rows) see all of the keys [key, key + keys).
    __device__ bool sees_all(int row, int rows, int key, int keys) const {
        return !masked() && key + keys <= k_rows() && key + keys - 1 <= row + ahead() &&
               in_window(row + rows - 1, key);
    }
    // Whether one of them might see one.
    __device__ bool sees_any(int row, int rows, int key, int keys) const {
        return key < k_rows() && key <= row + rows - 1 + ahead() && in_window(row, key + keys - 1);
    }
    __device__ bool sees(int row, int key) const {
        bool seen = (row < a.q_rows) & (key < k_rows()) & (key <= row + ahead());
        if (a.window) seen &= key >= row + behind();
        if (a.mask.allowed) seen &= of_mask(a.mask.allowed, row, key) != 0;
        if (a.mask.additive) seen &= of_mask(a.mask.additive, row, key) != -INFINITY;
        return seen;
    }
    __device__ float bias(int row, int key) const {  // of a key that is seen
        return a.mask.additive ? of_mask(a.mask.additive, row, key) : 0;
    }
    // In units of log(2), finite if it is: the least of all numbers may mean what is hardly seen.
    __device__ float bias_of_two(int row, int key) const {
        const float x = bias(row, key) * log2_e;
        return x < -FLT_MAX ? -FLT_MAX : x;
    }
    // Queries from first_row on see no key before the first, those up to last_row none from the
    // second on.
    __device__ int first_key(int first_row) const {
        return a.window ? max(0, first_row + behind()) : 0;
    }
    __device__ int end_of_keys(int last_row) const { return min(k_rows(), last_row + ahead() + 1); }
    // Keys from `key` on are seen by no query before this one, those up to `key` by none from the
    // second on.
    __device__ int first_seeing(int key) const { return max(0, key - ahead()); }
    __device__ int end_of_seeing(int key) const {
        const int rows = static_cast<int>(a.q_rows);
        return a.window ? max(0, min(rows, key - behind() + 1)) : rows;
    }
};

template <class T>
__device__ __forceinline__ T* row_of(const Heads<T>& heads, int64_t batch, int64_t head,
                                     int64_t row) {
    return heads.data + batch * heads.batch_stride + head * heads.head_stride +
           row * heads.row_stride;
}

// The rows of one head that a block of threads works on, the last ones first: of queries they are
// the ones that see most under causality.
struct Place {
    int batch, head, index;  // of the head among all
    int first;

    __device__ Place(int64_t heads, int64_t rows, int unit) {
        const unsigned blocks = static_cast<unsigned>((rows + unit - 1) / unit);
        index = static_cast<int>(blockIdx.x / blocks);
        batch = index / static_cast<int>(heads);
        head = index % static_cast<int>(heads);
        first = static_cast<int>(blocks - 1 - blockIdx.x % blocks) * unit;
    }
};

// The pair of batch and key head that a query head belongs to.
__device__ __forceinline__ int64_t pair_of(const Attention& a, const Place& place) {
    const int group = static_cast<int>(a.heads / a.kv_heads);
    return place.batch * a.kv_heads + place.head / group;
}

inline dim3 grid_of(const Attention& a, int64_t heads, int64_t rows, int unit) {
    return dim3(static_cast<unsigned>(a.batch * heads * divide_up(rows, unit)));
}

// Copies of heads: (batch, heads, padded rows, D), where D is a kernel's head size. What is missing
// to a multiple of row_unit rows and to D columns is 0.
constexpr int row_unit = 128;
inline int64_t padded(int64_t rows) { return divide_up(rows, row_unit) * row_unit; }

struct Copies {
    Heads<const float> from;
    int64_t heads, rows, d;
    void* to;
    float factor;  // of what is copied
};

// Copies up to four arrays of `a` in precision P and sets wild[batch, kv_head] where a number is
// not finite, or so large that it would not be after rounding.
template <class P, int D>
void copy_heads(const Attention& a, const Copies (&arrays)[4], int* wild);

// The copies that the kernels of one call read.
template <class Element>
struct Staged {
    const Element *q, *k, *v, *grad;
    const int* wild;
    int64_t q_padded, k_padded;  // rows
};

template <class P, int D>
class Stage {
    using Element = typename P::Element;

 public:
    Stage(const Attention& a, float query_factor, const Heads<const float>& grad)
        : q_padded_(padded(a.q_rows)),
          k_padded_(padded(a.k_rows)),
          q_(count(a.batch * a.heads * q_padded_)),
          k_(count(a.batch * a.kv_heads * k_padded_)),
          v_(count(a.batch * a.kv_heads * k_padded_)),
          grad_(count(grad.data ? a.batch * a.heads * q_padded_ : 0)),
          wild_(static_cast<size_t>(a.batch * a.kv_heads)) {
        copy_heads<P, D>(a,
                         {{a.q, a.heads, a.q_rows, a.d, q_.data(), query_factor},
                          {a.k, a.kv_heads, a.k_rows, a.d, k_.data(), 1},
                          {a.v, a.kv_heads, a.k_rows, a.value_d, v_.data(), 1},
                          {grad, a.heads, grad.data ? a.q_rows : 0, a.value_d, grad_.data(), 1}},
                         wild_.data());
    }
    Staged<Element> view() const {
        return {q_.data(), k_.data(), v_.data(), grad_.data(), wild_.data(), q_padded_, k_padded_};
    }

 private:
    static size_t count(int64_t rows) { return static_cast<size_t>(rows * D); }

    int64_t q_padded_, k_padded_;
    Scratch<Element> q_, k_, v_, grad_;
    Scratch<int> wild_;
};

// A score is factor times the product with a query's copy, in units of log(2). The sign of the
// scale, or that it is 0, goes into the copy: the greatest product has the greatest score.
struct ScoreScale {
    float factor, query;
    explicit ScoreScale(float scale)
        : factor((scale == 0  ? 1
                  : scale < 0 ? -scale
                              : scale) *
                 log2_e),
          query(scale == 0  ? 0.f
                : scale < 0 ? -1.f
                            : 1.f) {}
};

// Attention by plain loops in float32, for heads of any size and numbers that are not finite. If
// `wild` is given, only where it is set.
void plain_forward(const Attention& a, const Heads<float>& out, float* lse, const int* wild);

// delta (batch, heads, delta_rows): rowsum(grad out), and what is no query's.
void plain_backward(const Attention& a, const Heads<const float>& grad, const float* lse,
                    const float* delta, int64_t delta_rows, const Heads<float>& dq,
                    const Heads<float>& dk, const Heads<float>& dv, const int* wild);

// Rows of queries: lse in units of log(2), infinite where nothing is seen or there is no query, so
// that weights are 0; and delta.
struct QueryRows {
    const float *lse, *delta;
};

// The heads, of one batch or of all, that one matrix of the mask's gradient is the sum of.
struct Sharers {
    int64_t batch, head;  // the first
    int batches, heads;   // how many

    __device__ Sharers(const Attention& a, int64_t matrix)
        : batch(a.mask.gradient_batch == 1 ? 0 : matrix / a.mask.gradient_heads),
          head(a.mask.gradient_heads == 1 ? 0 : matrix % a.mask.gradient_heads),
          batches(static_cast<int>(a.mask.gradient_batch == 1 ? a.batch : 1)),
          heads(static_cast<int>(a.mask.gradient_heads == 1 ? a.heads : 1)) {}

    __device__ int count() const { return batches * heads; }
    __device__ int64_t batch_of(int turn) const { return batch + turn / heads; }
    __device__ int64_t head_of(int turn) const { return head + turn % heads; }
    // Whether one of them belongs to a pair that is wild.
    __device__ bool any(const Attention& a, const int* wild) const {
        const int64_t group = a.heads / a.kv_heads;
        for (int turn = 0; turn < count(); turn++)
            if (wild[batch_of(turn) * a.kv_heads + head_of(turn) / group]) return true;
        return false;
    }
};

// The gradient of what the mask adds, by tensor cores: of matrices without a wild head.
template <class P, int D>
void mask_gradient(const Attention& a, const Staged<typename P::Element>& staged,
                   const QueryRows& of_rows, float factor);

// x = f(row, column, x) for all sums x of a warp.
template <int M, int N, class F>
__device__ __forceinline__ void replace(float (&c)[M][N][4], const F& f) {
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n][i] = f(16 * m + g + i / 2 * 8, 8 * n + 2 * t + i % 2, c[m][n][i]);
        }
    }
}

// Attention of few queries, of those that few_queries() says, in float32.
bool few_queries(const Attention& a);
void forward_of_few(const Attention& a, const Heads<float>& out, float* lse);

// Rows and elements of a head's mask are counted by int.
inline void require_countable(const Attention& a) {
    const auto size = [](int64_t rows, int64_t stride) {
        return rows * (stride < 0 ? -stride : stride);
    };
    const int64_t mask = size(a.q_rows, a.mask.row_stride) + size(a.k_rows, a.mask.col_stride);
    constexpr int64_t most = (int64_t{1} << 31) - (1 << 16);
    if (std::max(a.q_rows + a.k_rows, mask) > most)
        throw std::invalid_argument("scaled_dot_product_attention: " + std::to_string(a.q_rows) +
                                    " queries and " + std::to_string(a.k_rows) +
                                    " keys, fewer than 2^31 - 2^16 of both, and of elements of " +
                                    "a head's mask, are needed on a GPU");
}

// f(precision, head size) of the kernels for heads of d features.
template <class F>
void with_kernels_for(int64_t d, bool bf16, const F& f) {
    const auto with_size = [&](auto precision) {
        if (d <= 32) return f(precision, std::integral_constant<int, 32>());
        if (d <= 64) return f(precision, std::integral_constant<int, 64>());
        f(precision, std::integral_constant<int, 128>());
    };
    if (bf16) return with_size(Bf16());
    with_size(Tf32x3());
}

// Writes a warp's sums (16 M, D) from `row` on, times factor(m, half): half 0 is row g, 1 g + 8.
template <int M, int N, class F>
__device__ __forceinline__ void write_rows(const float (&c)[M][N][4], const Heads<float>& to,
                                           int64_t batch, int64_t head, int row, int64_t rows,
                                           int64_t d, const F& factor) {
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = row + 16 * m + g + 8 * half;
            if (r >= rows) continue;
            float* line = row_of(to, batch, head, r);
            const float times = factor(m, half);
            const bool pairs = d % 2 == 0 && reinterpret_cast<uintptr_t>(line) % 8 == 0;
#pragma unroll
            for (int n = 0; n < N; n++) {
                const int col = 8 * n + 2 * t;
                const float first = c[m][n][2 * half] * times;
                const float second = c[m][n][2 * half + 1] * times;
                if (pairs && col < d) {
                    *reinterpret_cast<float2*>(line + col) = make_float2(first, second);
                } else {
                    if (col < d) line[col] = first;
                    if (col + 1 < d) line[col + 1] = second;
                }
            }
        }
    }
}

}  // namespace minillm::device
