// A linear layer for a few rows, as decoding has them: the weight is read once, in float32 where it
// lies, so that nothing is rounded and nothing copied. A warp for each feature of the result.
#include "few_rows.h"
#include "numbers.h"

namespace minillm::device {
namespace {

constexpr int warps = 4;  // of a block

// out (n, m) = x (n, k) times weight (m, k) transposed + bias (m) + residual (n, m); n <= Rows
template <int Rows, int Width>
__global__ void __launch_bounds__(warps* warp_size)
    few_rows(const float* x, const float* weight, const float* bias, const float* residual,
             int64_t n, int64_t m, int64_t k, float* out) {
    const int lane = threadIdx.x % warp_size;
    const int64_t feature = blockIdx.x * static_cast<int64_t>(warps) + threadIdx.x / warp_size;
    if (feature >= m) return;  // the whole warp
    const float* own = weight + feature * k;
    float sums[Rows] = {};
#pragma unroll 4
    for (int64_t col = lane * Width; col < k; col += warp_size * Width) {
        const auto w = load<Width>(own + col);
#pragma unroll
        for (int row = 0; row < Rows; row++) {
            const auto v = load<Width>(x + (row < n ? row : n - 1) * k + col);
#pragma unroll
            for (int i = 0; i < Width; i++) sums[row] += w.at[i] * v.at[i];
        }
    }
#pragma unroll
    for (int row = 0; row < Rows; row++) {
        for (int step = warp_size / 2; step; step /= 2)
            sums[row] += __shfl_xor_sync(all_lanes, sums[row], step);
        if (lane || row >= n) continue;
        float sum = sums[row];
        if (bias) sum += bias[feature];
        if (residual) sum += residual[row * m + feature];
        out[row * m + feature] = sum;
    }
}

template <int Width>
void choose_rows(const float* x, const float* weight, const float* bias, const float* residual,
                 int64_t n, int64_t m, int64_t k, float* out) {
    const auto kernel = n == 1   ? few_rows<1, Width>
                        : n == 2 ? few_rows<2, Width>
                        : n <= 4 ? few_rows<4, Width>
                                 : few_rows<most_few_rows, Width>;
    launch(kernel, dim3(divide_up(m, warps)), warps * warp_size, 0, x, weight, bias, residual, n, m,
           k, out);
}

}  // namespace

void few_rows_forward(const float* x, const float* weight, const float* bias, const float* residual,
                      int64_t n, int64_t m, int64_t k, float* out) {
    if (!n) return;
    if (by_fours(k, {x, weight}))
        choose_rows<4>(x, weight, bias, residual, n, m, k, out);
    else
        choose_rows<1>(x, weight, bias, residual, n, m, k, out);
}

}  // namespace minillm::device
