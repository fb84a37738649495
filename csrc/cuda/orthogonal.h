// Newton-Schulz iterations on matrices of one shape, which are multiplied together.
#pragma once

#include "../kernels.h"

namespace minillm::device {

// Each of `count` matrices x (rows, cols) that lie one after the other, times its factor and then
// with singular values near 1; in place.
void orthogonalize(const Muon& s, int64_t count, int64_t rows, int64_t cols, const float* factors,
                   float* x);

}  // namespace minillm::device
