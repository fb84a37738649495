#include "rounded.h"

#include "../parallel.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t rows_together = 8;  // rounded by a task
constexpr float largest_word = 32767;
constexpr float least = 1e-30f;       // a block that is smaller is 0: its scale has no reciprocal
constexpr float magic = 12582912.0f;  // 1.5 * 2^23: added to a number, it rounds it
constexpr int32_t magic_bits = 0x4b400000;
constexpr int32_t infinity_bits = 0x7f800000;

// The largest magnitude, as bits: those of NaN are above those of infinity.
int32_t largest_bits(const float* x) {
    vi most{};
    for (int i = 0; i < unit; i += W) {
        const vi bits = (vi)magnitude(load(x + i));
        most = bits > most ? bits : most;
    }
    int32_t result = 0;
    for (int i = 0; i < W; i++) result = most[i] > result ? most[i] : result;
    return result;
}

void round_block(const float* x, int16_t* numbers, float& scale, float& sum) {
    const int32_t bits = largest_bits(x);
    float top;
    memcpy(&top, &bits, sizeof top);
    const bool finite = bits < infinity_bits;
    const float factor = finite && top >= least ? largest_word / top : 0;
    vi total{};
    int32_t words[unit];
    for (int i = 0; i < unit; i += W) {
        const vf moved = (finite ? load(x + i) : vf{}) * factor + magic;
        const vi number = (vi)moved - magic_bits;
        memcpy(words + i, &number, sizeof number);
        total += number;
    }
    for (int i = 0; i < unit; i++) numbers[i] = static_cast<int16_t>(words[i]);
    int32_t whole = 0;
    for (int i = 0; i < W; i++) whole += total[i];
    scale = !finite ? top - top : top >= least ? top / largest_word : 0;
    sum = scale * static_cast<float>(whole);
}

}  // namespace

RoundedRows::RoundedRows(const float* x, int64_t rows, int64_t cols)
    : blocks_(cols / unit),
      stride_(ceil_div(blocks_ * (4 + unit / 2), 16) * 16),
      memory_(rows * stride_) {
    parallel_for(ceil_div(rows, rows_together), [&](int64_t chunk) {
        const int64_t begin = chunk * rows_together;
        for (int64_t row = begin; row < smaller(rows, begin + rows_together); row++) {
            float *scales = memory_ + row * stride_, *sums = scales + blocks_;
            float* pairs = sums + blocks_;
            auto* numbers = reinterpret_cast<int16_t*>(pairs + 2 * blocks_);
            for (int64_t i = 0; i < blocks_; i++) {
                round_block(x + row * cols + i * unit, numbers + i * unit, scales[i], sums[i]);
                pairs[2 * i] = scales[i];
                pairs[2 * i + 1] = sums[i];
            }
        }
    });
}

bool RoundedRows::finite(int64_t row) const {
    const float* scales = (*this)[row].scales;
    for (int64_t i = 0; i < blocks_; i++)
        if (scales[i] != scales[i]) return false;
    return true;
}

}  // namespace minillm::MINILLM_ISA
