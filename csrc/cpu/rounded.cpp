#include "rounded.h"

#include "../parallel.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t rows_together = 8;  // rounded by a task
constexpr float largest_word = 127 * 256 + 127;
constexpr float least = 1e-30f;       // a block that is smaller is 0: its scale has no reciprocal
constexpr float magic = 12582912.0f;  // 1.5 * 2^23: added to a number, it rounds it
constexpr int32_t magic_bits = 0x4b400000;
constexpr int32_t infinity_bits = 0x7f800000;

typedef int16_t half_words __attribute__((vector_size(2 * W)));

template <int... I>
INLINE half_words exchange_middle(half_words v, Lanes<I...>) {
    constexpr int places[] = {0, 2, 1, 3};
    return half_words{v[I / 4 * 4 + places[I % 4]]...};
}

// All lanes by f, whose order does not matter.
template <int H = W / 2, class F>
INLINE int32_t folded(vi v, const F& f) {
    v = f(v, (vi)rotate<H>((vf)v, AllLanes{}));
    if constexpr (H == 1)
        return v[0];
    else
        return folded<H / 2>(v, f);
}

// The largest magnitude, as bits: those of NaN are above those of infinity.
int32_t largest_bits(const float* x) {
    vi most{};
    for (int i = 0; i < unit; i += W) {
        const vi bits = (vi)magnitude(load(x + i));
        most = bits > most ? bits : most;
    }
    return folded(most, [](vi a, vi b) { return a > b ? a : b; });
}

void round_block(const float* x, int16_t* numbers, int16_t* pairs, float& scale, float& sum) {
    const int32_t bits = largest_bits(x);
    float top;
    memcpy(&top, &bits, sizeof top);
    const bool finite = bits < infinity_bits;
    const float factor = finite && top >= least ? largest_word / top : 0;
    vi total{};
    for (int i = 0; i < unit; i += W) {
        const vf moved = (finite ? load(x + i) : vf{}) * factor + magic;
        const vi number = (vi)moved - magic_bits;
        total += number;
        const auto narrow = __builtin_convertvector(number, half_words);
        memcpy(numbers + i, &narrow, sizeof narrow);
        const auto exchanged = exchange_middle(narrow, AllLanes{});
        memcpy(pairs + i, &exchanged, sizeof exchanged);
    }
    scale = !finite ? top - top : top >= least ? top / largest_word : 0;
    sum = scale * static_cast<float>(folded(total, [](vi a, vi b) { return a + b; }));
}

}  // namespace

RoundedRows::RoundedRows(int64_t rows, int64_t cols)
    : blocks_(cols / unit),
      stride_(ceil_div(blocks_ * (2 + unit), 16) * 16),
      memory_(rows * stride_) {}

RoundedRows::RoundedRows(const float* x, int64_t rows, int64_t cols) : RoundedRows(rows, cols) {
    parallel_for(ceil_div(rows, rows_together), [&](int64_t chunk) {
        const int64_t begin = chunk * rows_together;
        for (int64_t row = begin; row < smaller(rows, begin + rows_together); row++)
            put(row, x + row * cols);
    });
}

void RoundedRows::put(int64_t row, const float* x) {
    float *scales = memory_ + row * stride_, *sums = scales + blocks_;
    auto* numbers = reinterpret_cast<int16_t*>(sums + blocks_);
    int16_t* pairs = numbers + unit * blocks_;
    for (int64_t i = 0; i < blocks_; i++)
        round_block(x + i * unit, numbers + i * unit, pairs + i * unit, scales[i], sums[i]);
}

bool RoundedRows::finite(int64_t row) const {
    const float* scales = (*this)[row].scales;
    for (int64_t i = 0; i < blocks_; i++)
        if (scales[i] != scales[i]) return false;
    return true;
}

}  // namespace minillm::MINILLM_ISA
