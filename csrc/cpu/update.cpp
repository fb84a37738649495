// What an optimiser step does to all parameters: the gradient's norm, AdamW, SGD, the way to
// averages, the check for inf.
#include "declare.h"
#include "ranges.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

namespace {

double sum_of_squares(const float* x, int64_t n) {
    constexpr int64_t lanes = 16;
    double sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        __builtin_prefetch(x + i + 512);
        for (int64_t j = 0; j < lanes; j++)
            sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
    }
    for (; i < n; i++) sums[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    for (int64_t j = 1; j < lanes; j++) sums[0] += sums[j];
    return sums[0];
}

}  // namespace

void norm_forward(const Flat* arrays, int64_t count, float* out) {
    const Ranges<Flat> ranges(arrays, count, 2 * chunk_floats);
    const Scratch memory(2 * ranges.size());
    auto* squares = reinterpret_cast<double*>(static_cast<float*>(memory));
    ranges.for_each([=](const Flat& x, int64_t range, int64_t first, int64_t end) {
        squares[range] = sum_of_squares(x.data + first, end - first);
    });
    double total = 0;
    for (int64_t i = 0; i < ranges.size(); i++) total += squares[i];
    *out = static_cast<float>(__builtin_sqrt(total));
}

void adamw_forward(const Moments* parameters, int64_t count, const AdamW& settings) {
    const Rates s(settings);
    const Ranges<Moments> ranges(parameters, count, chunk_floats);
    ranges.for_each([=](const Moments& p, int64_t, int64_t from, int64_t end) {
        over_vectors(from, end, [=](int64_t i, auto lanes) {
            vf m = load(p.m + i, lanes), v = load(p.v + i, lanes);
            const vf param = s.update(load(p.param + i, lanes), load(p.grad + i, lanes), m, v);
            store(p.m + i, m, lanes);
            store(p.v + i, v, lanes);
            store(p.param + i, param, lanes);
        });
    });
}

void sgd_forward(const Sums* parameters, int64_t count, const SGD& s) {
    const auto lr = static_cast<float>(s.lr), momentum = static_cast<float>(s.momentum);
    const auto decay = static_cast<float>(s.weight_decay);
    const auto grad_scale = static_cast<float>(s.grad_scale);
    const Ranges<Sums> ranges(parameters, count, chunk_floats);
    ranges.for_each([=](const Sums& p, int64_t, int64_t from, int64_t end) {
        over_vectors(from, end, [=](int64_t i, auto lanes) {
            const vf param = load(p.param + i, lanes);
            const vf step = load(p.grad + i, lanes) * grad_scale + decay * param;
            const vf sum = momentum * load(p.buffer + i, lanes) + step;
            store(p.buffer + i, sum, lanes);
            store(p.param + i, param - lr * sum, lanes);
        });
    });
}

void lerp_forward(const Way* pairs, int64_t count, double weight) {
    const auto share = static_cast<float>(weight);
    const Ranges<Way> ranges(pairs, count, chunk_floats);
    ranges.for_each([=](const Way& p, int64_t, int64_t from, int64_t end) {
        over_vectors(from, end, [=](int64_t i, auto lanes) {
            const vf start = load(p.start + i, lanes);
            store(p.start + i, start + share * (load(p.end + i, lanes) - start), lanes);
        });
    });
}

namespace {

// 0 if n elements are finite, else NaN.
float zero_if_finite(const float* x, int64_t n, int64_t stride) {
    vf zero{};  // stays so unless it meets 0 * inf or 0 * NaN
    if (stride == 1) {
        over_vectors(0, n, [&](int64_t i, auto lanes) { zero += load(x + i, lanes) * 0.0f; });
    } else {
        for (int64_t i = 0; i < n; i++) zero[0] += x[i * stride] * 0.0f;
    }
    return sum(zero);
}

}  // namespace

// The last axis is walked in pieces; a contiguous array is a single axis.
void all_finite(const Strides& x, bool* out) {
    int64_t rows = 1;
    for (int64_t axis = 0; axis + 1 < x.axes; axis++) rows *= x.shape[axis];
    const int64_t cols = x.shape[x.axes - 1], step = x.strides[x.axes - 1];
    const int64_t pieces = ceil_div(cols, chunk_floats), each = rows_in_chunk(cols);
    const int64_t chunks = ceil_div(rows, each) * pieces;
    const Scratch sums(chunks);
    parallel_for(chunks, [&](int64_t chunk) {
        const int64_t first = chunk / pieces * each, col = chunk % pieces * chunk_floats;
        float total = 0;
        for (int64_t row = first; row < smaller(rows, first + each); row++) {
            int64_t at = col * step;
            for (int64_t axis = x.axes - 2, rest = row; axis >= 0; rest /= x.shape[axis--])
                at += rest % x.shape[axis] * x.strides[axis];
            total += zero_if_finite(x.data + at, smaller(chunk_floats, cols - col), step);
        }
        sums[chunk] = total;
    });
    *out = true;
    for (int64_t i = 0; i < chunks; i++) *out = *out && sums[i] == 0.0f;
}

}  // namespace minillm::MINILLM_ISA
