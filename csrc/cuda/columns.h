// Sums over rows, in a fixed order.
#pragma once

#include "../kernels.h"
#include "launch.h"

namespace minillm::device {

// Rows that are summed first, one after another, before the sums of such chunks are.
constexpr int64_t chunk_rows(int64_t rows) {
    const int64_t least = 16, most_chunks = 512;
    const int64_t each = divide_up(rows, most_chunks);
    return each < least ? least : each;
}

// to[col] = the sum of parts[row, col], or what is there plus that; few rows, all in one pass.
void sum_rows(const float* parts, int64_t rows, int64_t cols, Gradient to);

}  // namespace minillm::device
