#include "numbers.h"
#include "products.h"

namespace minillm::device {
namespace {

constexpr int threads = 256;
constexpr int64_t most_blocks = 1 << 16;

__device__ float element(const Operand& a, int64_t batch, int64_t row, int64_t col) {
    const int64_t place =
        batch * a.batch_stride + (a.transposed ? col * a.stride + row : row * a.stride + col);
    return a.number == Number::bf16 ? widen(static_cast<const bf16*>(a.data)[place])
                                    : static_cast<const float*>(a.data)[place];
}

// A thread for each element: for what cuBLASLt will not do, a sum of no terms among it.
__global__ void plain_product(Product p) {
    const int64_t all = p.batch * p.rows * p.cols;
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < all;
         i += step) {
        const int64_t col = i % p.cols, row = i / p.cols % p.rows, batch = i / p.cols / p.rows;
        const int64_t place = batch * p.batch_stride + row * p.stride + col;
        float sum = 0;
        for (int64_t k = 0; k < p.depth; k++)
            sum += element(p.a, batch, row, k) * element(p.b, batch, k, col);
        if (p.start) sum += p.start[place];
        if (p.bias) sum += p.bias[col];
        if (p.out_number == Number::bf16)
            static_cast<bf16*>(p.out)[place] = __float2bfloat16_rn(sum);
        else
            static_cast<float*>(p.out)[place] = sum;
    }
}

}  // namespace

void multiply(const Product& p) {
    const int64_t all = p.batch * p.rows * p.cols;
    if (!all || (p.depth && lt::multiply(p))) return;
    const int64_t blocks = divide_up(all, threads);
    launch(plain_product, dim3(blocks < most_blocks ? blocks : most_blocks), threads, 0, p);
}

void multiply_into(Gradient c, int64_t rows, int64_t cols, int64_t depth, const Operand& a,
                   const Operand& b) {
    if (!c.data) return;
    multiply({rows, cols, depth, a, b, c.data, cols, c.add ? c.data : nullptr});
}

}  // namespace minillm::device
