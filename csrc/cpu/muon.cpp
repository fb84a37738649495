// Muon: the gradient's mean made nearly orthogonal, by products that run on tiles where there are
// any. The smaller Gram matrix is multiplied, so that nothing is transposed.
#include "../scratch.h"
#include "declare.h"
#include "gemm.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

// The mean takes in the gradient; out, what is to be made orthogonal. Returns out's norm.
float take_in(const Momentum& p, const Muon& s, float* out) {
    const int64_t n = p.rows * p.cols, chunks = ceil_div(n, chunk_floats);
    const auto keep = static_cast<float>(s.momentum), rest = static_cast<float>(1 - s.momentum);
    const auto grad_scale = static_cast<float>(s.grad_scale);
    const Scratch memory(2 * chunks);
    auto* squares = reinterpret_cast<double*>(static_cast<float*>(memory));
    const bool nesterov = s.nesterov;
    for_each_range(n, [=](int64_t first, int64_t end) {
        over_vectors(first, end, [&](int64_t i, auto lanes) {
            const vf g = load(p.grad + i, lanes) * grad_scale;
            const vf mean = keep * load(p.buffer + i, lanes) + rest * g;
            const vf ahead = nesterov ? keep * mean + rest * g : mean;
            store(p.buffer + i, mean, lanes);
            store(out + i, ahead, lanes);
        });
        squares[first / chunk_floats] = sum_over(end - first, [&](int64_t i, auto lanes) {
            const vf x = load(out + first + i, lanes);
            return x * x;
        });
    });
    double total = 0;
    for (int64_t i = 0; i < chunks; i++) total += squares[i];
    return static_cast<float>(__builtin_sqrt(total));
}

void scale(float factor, const float* x, int64_t n, float* out) {
    for_each_vector(
        n, [=](int64_t i, auto lanes) { store(out + i, factor * load(x + i, lanes), lanes); });
}

// One step of the iteration, from x (rows, cols) to next: x f(x' x) or f(x x') x with the quintic's
// f(g) = a + g (b + c g).
void iterate(const Muon& s, const float* x, int64_t rows, int64_t cols, float* gram, float* bent,
             float* next) {
    const bool tall = rows > cols;
    const int64_t side = tall ? cols : rows;
    const Matrix m = row_major(x, rows, cols), f = row_major(bent, side, side);
    if (tall)
        gemm(transposed(m), m, {}, gram, side);
    else
        gemm(m, transposed(m), {}, gram, side);
    scale(static_cast<float>(s.c), gram, side * side, next);
    for (int64_t i = 0; i < side; i++) next[i * (side + 1)] += static_cast<float>(s.b);
    gemm(row_major(gram, side, side), row_major(next, side, side), {}, bent, side);
    for (int64_t i = 0; i < side; i++) bent[i * (side + 1)] += static_cast<float>(s.a);
    if (tall)
        gemm(m, f, {}, next, cols);
    else
        gemm(f, m, {}, next, cols);
}

}  // namespace

void muon_forward(const Momentum* parameters, int64_t count, const Muon& s) {
    int64_t most = 0, widest = 0;
    for (int64_t i = 0; i < count; i++) {
        most = larger(most, parameters[i].rows * parameters[i].cols);
        widest = larger(widest, smaller(parameters[i].rows, parameters[i].cols));
    }
    const Scratch first(most), second(most), gram(widest * widest), bent(widest * widest);
    for (int64_t i = 0; i < count; i++) {
        const Momentum& p = parameters[i];
        const int64_t n = p.rows * p.cols;
        float *x = first, *next = second;
        const float norm = take_in(p, s, x);
        const auto eps = static_cast<float>(s.eps);
        scale(1 / (norm < eps ? eps : norm), x, n, x);
        for (int64_t step = 0; step < s.steps; step++) {
            iterate(s, x, p.rows, p.cols, gram, bent, next);
            float* done = x;
            x = next;
            next = done;
        }
        const auto decay = static_cast<float>(1 - s.lr * s.weight_decay);
        const auto rate = static_cast<float>(s.lr * p.scale);
        for_each_vector(n, [=](int64_t j, auto lanes) {
            store(p.param + j, load(p.param + j, lanes) * decay - rate * load(x + j, lanes), lanes);
        });
    }
}

}  // namespace minillm::MINILLM_ISA
