// Activations and their derivatives. Where a formula would meet inf * 0, one factor is held at a
// finite value at which the other is already 0, so that the result is the limit.
#pragma once

#include "math.h"

namespace minillm::MINILLM_ISA {

INLINE vf clamp(vf x, float bound) {
    return min(splat(bound), max(splat(-bound), x));
}  // keeps NaN

struct Sigmoid {
    vf value, slope;
};

INLINE Sigmoid sigmoid(vf x) {
    const vf power = exp(-magnitude(x));  // at most 1: no overflow
    const vf inverse = reciprocal(1.0f + power), small = power * inverse;
    return {select(x < 0.0f, small, inverse), small * inverse};
}

// An activation and its derivative at the same place.
struct Bend {
    vf value, slope;
};

constexpr float root = 0.797884561f;  // of 2/pi

// 0.5 (1 + tanh(y)) is the sigmoid of 2y.
struct GeluTanh {
    static vf argument(vf x) { return 2 * root * (x + 0.044715f * x * x * x); }
    static vf value(vf x) { return max(splat(-1e3f), x) * sigmoid(argument(x)).value; }
    static Bend bend(vf x) {
        const vf y = clamp(x, 15.0f);
        const Sigmoid s = sigmoid(argument(y));
        return {max(splat(-1e3f), x) * s.value,
                s.value + y * s.slope * (2 * root * (1.0f + 3 * 0.044715f * y * y))};
    }
};

struct GeluErf {
    static vf value(vf x) {
        const vf t = min(splat(last_tail), magnitude(x));
        return max(vf{}, x) - t * normal_tail(t);
    }
    static Bend bend(vf x) {
        const vf t = min(splat(last_tail), magnitude(x)), tail = normal_tail(t);
        const vf far = min(splat(last_density), magnitude(x));
        const vf fall = tail - far * normal_density(far);
        return {max(vf{}, x) - t * tail, select(x < 0.0f, fall, 1.0f - fall)};
    }
};

struct Silu {
    static vf value(vf x) { return max(splat(-1e3f), x) * sigmoid(x).value; }
    static Bend bend(vf x) {
        const vf y = clamp(x, 1e3f);
        const Sigmoid s = sigmoid(y);
        return {max(splat(-1e3f), x) * s.value, s.value + y * s.slope};
    }
};

}  // namespace minillm::MINILLM_ISA
