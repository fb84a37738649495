// What attention's two directions share: strips of scores, and which of them can matter.
#pragma once

#include "gemm.h"
#include "math.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

INLINE int64_t round_up(int64_t n, int64_t unit) { return ceil_div(n, unit) * unit; }

template <int... I>
INLINE vi numbers_of(Lanes<I...>) {
    return vi{I...};
}
INLINE vi lane_numbers() { return numbers_of(AllLanes{}); }  // 0, 1, ..., W - 1

template <class T>
INLINE T* at(const Heads<T>& heads, int64_t batch, int64_t head, int64_t row) {
    return heads.data + batch * heads.batch_stride + head * heads.head_stride +
           row * heads.row_stride;
}

INLINE Matrix rows_of(const Heads<const float>& heads, int64_t batch, int64_t head, int64_t row,
                      int64_t rows, int64_t cols) {
    return {at(heads, batch, head, row), rows, cols, heads.row_stride, 1};
}

// What a thread will need for the next head, brought into its second cache while it computes: read
// when needed, it takes a third of the time. A few lines at a time, as only so many may be on their
// way.
class Ahead {
 public:
    explicit Ahead(int64_t rows_a_step = 1) : each_(rows_a_step) {}
    template <class T>
    void add(const Heads<T>& heads, int64_t batch, int64_t head, int64_t rows, int64_t cols) {
        rows_[count_++] = {at(heads, batch, head, 0), rows, cols, heads.row_stride, 1};
    }
    void step() {  // the next rows of each
        for (int i = 0; i < count_; i++)
            for (int64_t row = next_; row < smaller(next_ + each_, rows_[i].rows); row++)
                for (int64_t j = 0; j < rows_[i].cols; j += 16)
                    __builtin_prefetch(rows_[i].data + row * rows_[i].row_stride + j, 0, 2);
        next_ += each_;
    }

 private:
    Matrix rows_[8] = {};
    int count_ = 0;
    int64_t each_, next_ = 0;
};

// How many of `cols` rows of k, from first_k on, a row of q may attend to for all causality says.
INLINE int64_t visible(const Attention& a, int64_t row, int64_t first_k, int64_t cols) {
    if (!a.causal) return cols;
    return larger(0, smaller(cols, a.offset + row + 1 - first_k));
}

// The first row of q that can see row `key` of k.
INLINE int64_t first_seeing(const Attention& a, int64_t key) {
    return a.causal ? larger(0, key - a.offset) : 0;
}

// Adds the mask to `count` scores: those of the keys from `key` on for one query, or, `by_query`,
// those of the queries from `row` on for one key.
void mask_scores(const Attention& a, int64_t batch, int64_t head, int64_t row, int64_t key,
                 int64_t count, bool by_query, float* scores);

}  // namespace minillm::MINILLM_ISA
