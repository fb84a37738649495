#include "../parallel.h"
#include "../scratch.h"
#include "declare.h"
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t small_work = 1 << 22;  // multiplications: let whole products share the threads
constexpr int64_t least_work = 1 << 17;  // of a chunk

// out[j] = sum over rows of x, summed first in groups of rows so that rounding errors stay small.
void sum_rows(const float* x, int64_t rows, int64_t cols, float* out) {
    constexpr int64_t group = 128;
    parallel_for(ceil_div(cols, 4 * W), [&](int64_t chunk) {
        for (int64_t j = chunk * 4 * W; j < smaller(cols, (chunk + 1) * 4 * W); j += W) {
            const int64_t lanes = smaller(W, cols - j);
            vf total{};
            for (int64_t first = 0; first < rows; first += group) {
                vf part{};
                for (int64_t i = first; i < smaller(rows, first + group); i++)
                    part +=
                        lanes < W ? load_first(x + i * cols + j, lanes) : load(x + i * cols + j);
                total += part;
            }
            if (lanes < W)
                store_first(out + j, total, lanes);
            else
                store(out + j, total);
        }
    });
}

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
            gemm(left, right, nullptr, out + i * a.rows * b.cols, b.cols);
        }
    };
    if (share)
        parallel_for(ceil_div(batch, each), multiply);
    else
        multiply(0);
}

void linear_forward(const float* x, const float* weight, const float* bias, int64_t n, int64_t m,
                    int64_t k, float* out) {
    gemm(row_major(x, n, k), transposed(row_major(weight, m, k)), bias, out, m);
}

void linear_backward(const float* grad, const float* x, const float* weight, int64_t n, int64_t m,
                     int64_t k, float* dx, float* dweight, float* dbias) {
    const Matrix g = row_major(grad, n, m);
    if (dx) gemm(g, row_major(weight, m, k), nullptr, dx, k);
    if (dweight) gemm(transposed(g), row_major(x, n, k), nullptr, dweight, k);
    if (dbias) sum_rows(grad, n, m, dbias);
}

void all_finite(const float* x, int64_t n, bool* out) {
    constexpr int64_t each = 1 << 15;
    const int64_t chunks = ceil_div(n, each);
    const Scratch seen(chunks);
    parallel_for(chunks, [&](int64_t chunk) {
        const int64_t end = smaller(n, (chunk + 1) * each);
        int64_t i = chunk * each;
        vf zeros{};
        for (; i + W <= end; i += W) zeros += load(x + i) * 0.0f;  // NaN from inf and NaN
        float zero = sum(zeros);
        for (; i < end; i++) zero += x[i] * 0.0f;
        seen[chunk] = zero;
    });
    *out = true;
    for (int64_t i = 0; i < chunks; i++) *out = *out && seen[i] == 0.0f;
}

}  // namespace minillm::MINILLM_ISA
