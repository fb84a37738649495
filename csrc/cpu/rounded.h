// Rows of activations as 16-bit integers, a scale for each 32 of them: the largest of a block
// becomes 32639, so that what rounding moves is at most 2^-16 of it, and each is 256 times a signed
// byte plus another.
#pragma once

#include "../scratch.h"
#include "blocks.h"

namespace minillm::MINILLM_ISA {

// One row: `numbers` of it in order; the same as `pairs`, with the middle two of every four
// exchanged; for each block its scale, and scale times the sum of numbers.
struct RoundedRow {
    const int16_t *numbers, *pairs;
    const float *scales, *sums;
};

class RoundedRows {
 public:
    RoundedRows(int64_t rows, int64_t cols);  // cols a multiple of 32; each row is still to be put
    RoundedRows(const float* x, int64_t rows, int64_t cols);
    void put(int64_t row, const float* x);
    RoundedRow operator[](int64_t row) const {
        const float* at = memory_ + row * stride_;
        const auto* numbers = reinterpret_cast<const int16_t*>(at + 2 * blocks_);
        return {numbers, numbers + unit * blocks_, at, at + blocks_};
    }
    bool finite(int64_t row) const;  // no infinity and no NaN; else the scales of some are NaN

 private:
    const int64_t blocks_, stride_;
    const Scratch memory_;
};

}  // namespace minillm::MINILLM_ISA
