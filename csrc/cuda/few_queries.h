#pragma once

#include "../kernels.h"

namespace minillm::device {

// Attention of a few consecutive tokens of one text to its keys and values, their own included, as
// decoding has it: token i sees the last `window` of the positions up to last + i, or all if 0.
struct FewQueries {
    int64_t rows, heads, kv_heads, d, value_d, capacity;
    Heads<const float> q;
    const float *k, *v;  // (kv_heads, capacity, d or value_d)
    Heads<float> out;
    int64_t last, window;
    float scale;
};

// Of so many the scores fit into the shared memory of a block on every card.
constexpr int64_t most_keys = 20000;

void attend_few(const FewQueries& f);

}  // namespace minillm::device
