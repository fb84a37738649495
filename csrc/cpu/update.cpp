// What an optimiser step does to all parameters: the gradient's norm, AdamW, the check for inf.
#include "../scratch.h"
#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

namespace {

// Many arrays cut into ranges of at most `each` elements, numbered from first to last.
template <class Item>
class Ranges {
 public:
    Ranges(const Item* items, int64_t count, int64_t each)
        : items_(items), count_(count), each_(each), memory_(2 * (count + 1)) {
        starts_ = reinterpret_cast<int64_t*>(static_cast<float*>(memory_));
        starts_[0] = 0;
        for (int64_t i = 0; i < count; i++)
            starts_[i + 1] = starts_[i] + ceil_div(items[i].n, each);
    }

    int64_t size() const { return starts_[count_]; }

    // Calls f(item, range, first, end) for the elements [first, end) of each range.
    template <class F>
    void for_each(const F& f) const {
        parallel_for(size(), [&](int64_t range) {
            int64_t low = 0, high = count_;  // starts[low] <= range < starts[high]
            while (high - low > 1) {
                const int64_t middle = (low + high) / 2;
                (starts_[middle] <= range ? low : high) = middle;
            }
            const int64_t first = (range - starts_[low]) * each_;
            f(items_[low], range, first, smaller(items_[low].n, first + each_));
        });
    }

 private:
    const Item* items_;
    int64_t count_, each_;
    Scratch memory_;
    int64_t* starts_;
};

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

void adamw_forward(const Moments* parameters, int64_t count, const AdamW& s) {
    const double t = static_cast<double>(s.step);
    const auto decay = static_cast<float>(1 - s.lr * s.weight_decay);
    const auto rate = static_cast<float>(s.lr / (1 - __builtin_pow(s.beta1, t)));
    const auto root = static_cast<float>(__builtin_sqrt(1 - __builtin_pow(s.beta2, t)));
    const auto beta1 = static_cast<float>(s.beta1), rest1 = static_cast<float>(1 - s.beta1);
    const auto beta2 = static_cast<float>(s.beta2), rest2 = static_cast<float>(1 - s.beta2);
    const auto eps = static_cast<float>(s.eps), grad_scale = static_cast<float>(s.grad_scale);
    const Ranges<Moments> ranges(parameters, count, chunk_floats);
    ranges.for_each([=](const Moments& p, int64_t, int64_t from, int64_t end) {
        over_vectors(from, end, [=](int64_t i, auto lanes) {
            const vf g = load(p.grad + i, lanes) * grad_scale;
            const vf first = beta1 * load(p.m + i, lanes) + rest1 * g;
            const vf second = beta2 * load(p.v + i, lanes) + rest2 * g * g;
            const vf change = rate * first / (square_root(second) / root + eps);
            store(p.m + i, first, lanes);
            store(p.v + i, second, lanes);
            store(p.param + i, load(p.param + i, lanes) * decay - change, lanes);
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
