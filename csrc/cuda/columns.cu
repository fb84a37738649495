#include "columns.h"

namespace minillm::device {
namespace {

constexpr int strides = 8;  // threads that share a column

__global__ void sum_rows_kernel(const float* parts, int64_t rows, int64_t cols, Gradient to) {
    __shared__ float sums[strides][warp_size];
    const int64_t col = static_cast<int64_t>(blockIdx.x) * warp_size + threadIdx.x;
    float sum = 0;
    if (col < cols)
        for (int64_t row = threadIdx.y; row < rows; row += strides) sum += parts[row * cols + col];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || col >= cols) return;
    for (int i = 1; i < strides; i++) sum += sums[i][threadIdx.x];
    to.data[col] = to.add ? __fadd_rn(sum, to.data[col]) : sum;
}

}  // namespace

void sum_rows(const float* parts, int64_t rows, int64_t cols, Gradient to) {
    if (!to.data) return;
    launch(sum_rows_kernel, dim3(static_cast<unsigned>(divide_up(cols, warp_size))),
           dim3(warp_size, strides), 0, parts, rows, cols, to);
}

}  // namespace minillm::device
