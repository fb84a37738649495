#pragma once

#include "places.h"

namespace minillm::device {

// Heads (tokens, heads, d) that may lie in wider rows.
struct TokenHeads {
    int64_t tokens, heads, d, from_stride, to_stride;
    const float* from;
    float* to;
};

// As rotary_forward (kernels.h), each token by the angles (d / 2) of its position.
void turn_tokens(const TokenHeads& t, const float* cos, const float* sin, const Places& places);

}  // namespace minillm::device
