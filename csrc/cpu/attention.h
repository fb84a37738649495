// What attention's two directions share: blocks of scores, and which of them can matter.
#pragma once

#include "gemm.h"
#include "math.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

constexpr int64_t block_q = 48, block_k = 128;  // rows of q and of k in a block of scores

template <class T>
INLINE T* at(const Heads<T>& heads, int64_t batch, int64_t head, int64_t row) {
    return heads.data + batch * heads.batch_stride + head * heads.head_stride +
           row * heads.row_stride;
}

INLINE Matrix rows_of(const Heads<const float>& heads, int64_t batch, int64_t head, int64_t row,
                      int64_t rows, int64_t cols) {
    return {at(heads, batch, head, row), rows, cols, heads.row_stride, 1};
}

// How many of `cols` rows of k, from first_k on, a row of q may attend to for all causality says.
INLINE int64_t visible(const Attention& a, int64_t row, int64_t first_k, int64_t cols) {
    if (!a.causal) return cols;
    return larger(0, smaller(cols, a.offset + row + 1 - first_k));
}

// The first block of q that can see row first_k of k.
INLINE int64_t first_block_seeing(const Attention& a, int64_t first_k) {
    return a.causal ? larger(0, first_k - a.offset) / block_q * block_q : 0;
}

// scores[j] = scores[j] * scale + mask for the first `cols` elements of a row of scores.
void finish_scores(const Attention& a, int64_t batch, int64_t head, int64_t row, int64_t first_k,
                   int64_t cols, float* scores);

}  // namespace minillm::MINILLM_ISA
