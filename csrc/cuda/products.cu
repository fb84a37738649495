#include "columns.h"
#include "factor.h"
#include "numbers.h"

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

Product to_gradient(Gradient c, int64_t rows, int64_t cols, int64_t depth, const Operand& a,
                    const Operand& b) {
    return {rows, cols, depth, a, b, c.data, cols, c.add ? c.data : nullptr};
}

// The sums are written, not added: where they are to be, they are written aside first.
bool sum_on_the_way(const Operand& slope, const Operand& x, int64_t n, int64_t m, int64_t k,
                    Gradient dweight, Gradient dbias) {
    const Scratch<float> aside(dbias.add ? m : 0);
    float* sums = dbias.add ? aside.data() : dbias.data;
    const Product p = to_gradient(dweight, m, k, n, transposed(slope), x);
    if (!lt::multiply(p, {lt::Fused::row_sums, sums})) return false;
    if (dbias.add) sum_rows(aside.data(), 1, m, dbias);
    return true;
}

}  // namespace

void multiply(const Product& p) {
    const int64_t all = p.batch * p.rows * p.cols;
    if (!all || lt::multiply(p)) return;
    const int64_t blocks = divide_up(all, threads);
    launch(plain_product, dim3(blocks < most_blocks ? blocks : most_blocks), threads, 0, p);
}

void multiply_into(Gradient c, int64_t rows, int64_t cols, int64_t depth, const Operand& a,
                   const Operand& b) {
    if (!c.data) return;
    multiply(to_gradient(c, rows, cols, depth, a, b));
}

void weight_gradients(const Operand& slope, const Operand& x, int64_t n, int64_t m, int64_t k,
                      Gradient dweight, Gradient dbias) {
    if (dweight.data && dbias.data && sum_on_the_way(slope, x, n, m, k, dweight, dbias)) return;
    multiply_into(dweight, m, k, n, transposed(slope), x);
    sum_columns(slope, n, m, dbias);
}

}  // namespace minillm::device
