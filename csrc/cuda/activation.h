// The functions of one number that layers apply, and their slopes.
#pragma once

#include "launch.h"

namespace minillm::device {

constexpr float activation_limit = 1e4f;  // beyond it a gate is 0 or 1: inf times 0 becomes 0

// 1 / (1 + exp(-x)), without overflow on either side.
__device__ __forceinline__ float gate(float x) {
    const float decay = expf(-fabsf(x));
    return (x < 0 ? decay : 1.0f) / (1 + decay);
}

// fminf and fmaxf would turn NaN into a number.
__device__ __forceinline__ float at_least(float x, float least) { return x < least ? least : x; }
__device__ __forceinline__ float limited(float x) {
    x = at_least(x, -activation_limit);
    return x > activation_limit ? activation_limit : x;
}

struct Silu {
    __device__ static float of(float x) { return at_least(x, -activation_limit) * gate(x); }
    __device__ static float slope(float x) {
        x = limited(x);
        return gate(x) * (1 + x * gate(-x));  // 1 - gate(x), without cancellation
    }
};

struct Gelu {
    __device__ static float of(float x) { return at_least(x, -activation_limit) * normcdff(x); }
    __device__ static float slope(float x) {
        x = limited(x);
        return normcdff(x) + x * 0.3989422804014327f * expf(-0.5f * x * x);
    }
};

// GPT-2's form with tanh, which is the gate of twice its argument.
struct GeluTanh {
    static constexpr float twice = 1.5957691216057308f, cubic = 0.044715f;
    __device__ static float bent(float x) { return twice * (x + cubic * x * x * x); }
    __device__ static float of(float x) { return at_least(x, -activation_limit) * gate(bent(x)); }
    __device__ static float slope(float x) {
        x = limited(x);
        const float u = bent(x), open = gate(u);
        return open + x * open * gate(-u) * twice * (1 + 3 * cubic * x * x);
    }
};

}  // namespace minillm::device
