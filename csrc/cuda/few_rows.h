#pragma once

#include <cstdint>

namespace minillm::device {

constexpr int most_few_rows = 8;

// As linear_forward (kernels.h), for n <= most_few_rows.
void few_rows_forward(const float* x, const float* weight, const float* bias, const float* residual,
                      int64_t n, int64_t m, int64_t k, float* out);

}  // namespace minillm::device
