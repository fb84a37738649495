#include "../parallel.h"
#include "../scratch.h"
#include "declare.h"
#include "gemm.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t small_work = 1 << 22;  // multiplications: let whole products share the threads
constexpr int64_t least_work = 1 << 17;  // of a chunk

}  // namespace

void matmul_forward(const Matrix& a, const int64_t* a_offsets, const Matrix& b,
                    const int64_t* b_offsets, int64_t batch, float* out) {
    const int64_t work = a.rows * a.cols * b.cols;
    const bool share = work < small_work;
    const int64_t each = share ? larger(1, least_work / larger(1, work)) : batch;
    const auto multiply = [&](int64_t chunk) {
        for (int64_t i = chunk * each; i < smaller(batch, (chunk + 1) * each); i++) {
            Matrix left = a, right = b;
            left.data += a_offsets[i];
            right.data += b_offsets[i];
            gemm(left, right, {}, out + i * a.rows * b.cols, b.cols);
        }
    };
    if (share)
        parallel_for(ceil_div(batch, each), multiply);
    else
        multiply(0);
}

void linear_forward(const float* x, const float* weight, const float* bias, const float* residual,
                    int64_t n, int64_t m, int64_t k, float* out) {
    Output result{out, m, residual ? Strided{residual, m} : Strided{bias, 0}};
    if (residual && bias) {
        result.finish = Output::Finish::add_bias;
        result.bias = bias;
    }
    gemm(row_major(x, n, k), transposed(row_major(weight, m, k)), result);
}

void linear_backward(const float* grad, const float* x, const float* weight, int64_t n, int64_t m,
                     int64_t k, Gradient dx, Gradient dweight, Gradient dbias) {
    const Matrix g = row_major(grad, n, m);
    gemm(g, row_major(weight, m, k), dx);
    gemm(transposed(g), row_major(x, n, k), dweight);
    sum_rows(grad, n, m, dbias);
}

}  // namespace minillm::MINILLM_ISA
