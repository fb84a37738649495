// Rows of activations as 16-bit integers, a scale for each 32 of them: the largest of a block
// becomes 32767, so that what rounding moves is at most 2^-16 of it.
#pragma once

#include "../scratch.h"
#include "blocks.h"

namespace minillm::MINILLM_ISA {

// One row: `numbers` of it in order; for each block its scale, scale times the sum of numbers, and
// both in turn.
struct RoundedRow {
    const int16_t* numbers;
    const float *scales, *sums, *pairs;
};

class RoundedRows {
 public:
    RoundedRows(const float* x, int64_t rows, int64_t cols);  // cols a multiple of 32
    RoundedRow operator[](int64_t row) const {
        const float* at = memory_ + row * stride_;
        return {reinterpret_cast<const int16_t*>(at + 4 * blocks_), at, at + blocks_,
                at + 2 * blocks_};
    }
    bool finite(int64_t row) const;  // no infinity and no NaN; else the scales of some are NaN

 private:
    const int64_t blocks_, stride_;
    const Scratch memory_;
};

}  // namespace minillm::MINILLM_ISA
