// What the losses over logits have in common.
#pragma once

#include "../kernels.h"
#include "math.h"

namespace minillm::MINILLM_ISA {

struct Target {
    const int64_t* ids;
    int64_t ignore_index, classes;
    float smoothing;

    bool ignored(int64_t row) const { return ids[row] == ignore_index; }
    float floor() const { return smoothing / static_cast<float>(classes); }
};

// What must be known of a row of logits. The greatest logit is kept out of the sum of powers: where
// it has nearly all the probability, the loss of choosing it is what the others add to 1, which a
// sum with that 1 in it would round away.
struct RowSums {
    float greatest = -infinity(), ties = 0;  // the greatest logit, and how often it occurs
    float others = 0;                        // sum of exp(logit - greatest) over smaller ones
    float total = 0, at_target = 0;          // sum of logits, logit of the target

    float above() const { return __builtin_log1pf(others + (ties - 1)); }  // lse - greatest

    float lse() const { return greatest + above(); }

    float loss(const Target& t) const {
        const float mean = total / static_cast<float>(t.classes);
        const float smooth = t.smoothing > 0 ? t.smoothing * (greatest - mean + above()) : 0;
        return (1 - t.smoothing) * (greatest - at_target + above()) + smooth;
    }
};

// These run on the pool, for products on tiles.
void linear_cross_entropy_bf16(const Matrix& x, const Matrix& weight, const Target& target,
                               float* losses, float* lse);
void linear_cross_entropy_backward_bf16(const float* grad, const Matrix& x, const Matrix& weight,
                                        const Target& target, const float* lse, Gradient dx,
                                        Gradient dweight);

}  // namespace minillm::MINILLM_ISA
