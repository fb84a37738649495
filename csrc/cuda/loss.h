// What the losses over logits have in common.
#pragma once

#include "../kernels.h"
#include "launch.h"

namespace minillm::device {

struct Target {
    const int64_t* ids;
    int64_t ignore_index, classes;
    float smoothing;

    __device__ bool ignored(int64_t row) const { return ids[row] == ignore_index; }
    __device__ bool known(int64_t row) const { return ids[row] >= 0 && ids[row] < classes; }
    __device__ float floor() const { return smoothing / static_cast<float>(classes); }
};

// What must be known of a row of logits. The greatest logit is kept out of the sum of powers: where
// it has nearly all the probability, the loss of choosing it is what the others add to 1, which a
// sum with that 1 in it would round away.
struct RowSums {
    float greatest = -INFINITY, ties = 0;  // the greatest logit, and how often it occurs
    float others = 0;                      // sum of exp(logit - greatest) over smaller ones
    float total = 0;                       // sum of logits

    __device__ __forceinline__ void raise(float to) {
        if (to <= greatest) return;
        others = (others + ties) * expf(greatest - to);
        ties = 0;
        greatest = to;
    }
    // One that is not above the greatest.
    __device__ __forceinline__ void add(float logit) {
        const float low = logit - (greatest == -INFINITY ? 0 : greatest);
        total += logit;
        if (low == 0)
            ties += 1;
        else
            others += expf(low);
    }
    template <class Team>
    __device__ __forceinline__ void share(const Team& team) {
        raise(team.maximum(greatest));
        others = team.sum(others);
        ties = team.sum(ties);
        total = team.sum(total);
    }

    __device__ float above() const { return log1pf(others + (ties - 1)); }  // lse - greatest
    __device__ float lse() const { return greatest + above(); }
    __device__ float loss(const Target& t, float at_target) const {
        const float mean = total / static_cast<float>(t.classes);
        const float smooth = t.smoothing > 0 ? t.smoothing * (greatest - mean + above()) : 0;
        return (1 - t.smoothing) * (greatest - at_target + above()) + smooth;
    }
};

}  // namespace minillm::device
