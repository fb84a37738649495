// Elementary functions on vectors. The polynomials were fitted by the Remez algorithm.
#pragma once

#include "vec.h"

namespace minillm::MINILLM_ISA {

template <int N>
INLINE vf polynomial(const float (&coefficients)[N], vf x) {  // highest power first
    vf value = splat(coefficients[0]);
    for (int i = 1; i < N; i++) value = value * x + coefficients[i];
    return value;
}

// e^x within 2 ulp; 0 where e^x is not a normal number: below -87.33, or, where denormals are
// flushed by the last instruction, just above.
INLINE vf exp(vf x) {
    constexpr float coefficients[] = {1.3814613e-3f, 8.3687097e-3f, 4.1668387e-2f, 0.1666652f,
                                      0.49999993f,   1.0f,          1.0f};
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves the integer in low bits
#if defined(__AVX512F__)
    x = min(splat(100.0f), max(splat(-110.0f), x));  // NaN stays
#endif
    const vf shifted = x * 1.44269504f + to_integer;
    const vf n = shifted - to_integer;
    vf r = x - n * 0.693359375f;
    r -= n * -2.12194440e-4f;  // log 2 in two parts
#if defined(__AVX512F__)
    return _mm512_maskz_scalef_ps(all_lanes, polynomial(coefficients, r), n);
#else
    const vu power = (vu)shifted << 23;
    vf value = (vf)((vu)polynomial(coefficients, r) + power);
    value = select(x < -87.33f, vf{}, value);
    return select(x < 88.722839f, value, x + infinity());  // inf, or NaN for NaN
#endif
}

// The standard normal distribution function of x, given e^(-x²/2). Its smaller tail is accurate to
// 1e-6 of itself (relative), so negative x do not suffer from cancellation.
INLINE vf normal_cdf(vf x, vf density) {
    constexpr float coefficients[] = {-3.2471952e-4f, -4.8199485e-4f, 3.0805780e-3f, -1.2270458e-3f,
                                      -2.6840061e-2f, 0.11952917f,    -0.31046597f,  0.59022829f,
                                      -0.88339449f,   1.0740069f};
    const vf t = min(splat(10.3f), magnitude(x) * 0.70710678f);
    const vf r = 1.0f / (t + 3.0f);
    const vf tail = polynomial(coefficients, (t - 3.0f) * r) * r * density * 0.5f;
    return select(x < 0.0f, tail, 1.0f - tail);
}

}  // namespace minillm::MINILLM_ISA
