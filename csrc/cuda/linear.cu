#include "factor.h"
#include "few_rows.h"
#include "kernels.h"

namespace minillm::device {

void linear_forward(const float* x, const float* weight, const float* bias, const float* residual,
                    int64_t n, int64_t m, int64_t k, float* out) {
    if (n <= most_few_rows) return few_rows_forward(x, weight, bias, residual, n, m, k, out);
    const Factor left(x, n, k), right(weight, m, k);
    multiply({n, m, k, left, transposed(right), out, m, residual, bias});
}

void linear_backward(const float* grad, const float* x, const float* weight, int64_t n, int64_t m,
                     int64_t k, Gradient dx, Gradient dweight, Gradient dbias) {
    const Factor slope(grad, n, m);
    if (dx.data) multiply_into(dx, n, k, m, slope, Factor(weight, m, k));
    if (dweight.data)
        weight_gradients(slope, Factor(x, n, k), n, m, k, dweight, dbias);
    else
        sum_columns(slope, n, m, dbias);
}

}  // namespace minillm::device
