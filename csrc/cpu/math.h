// Elementary functions on vectors. The polynomials were fitted by the Remez algorithm; the bounds
// are checked on every float by .ci/functions.
#pragma once

#include "vec.h"

namespace minillm::MINILLM_ISA {

template <int N>
INLINE vf polynomial(const float (&coefficients)[N], vf x) {  // highest power first
    vf value = splat(coefficients[0]);
    for (int i = 1; i < N; i++) value = value * x + coefficients[i];
    return value;
}

// e^x within 1.2e-7 of itself; 0 where e^x is not a normal number: below -87.33, or, where
// denormals are flushed by the last instruction, just above.
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

// 2^x for x in [-127, 126]; 0 below -126.5.
INLINE vf exp2(vf x) {
    constexpr float coefficients[] = {1.3276477e-3f, 9.6755405e-3f, 5.5507131e-2f,
                                      0.2402212f,    0.69314694f,   1.0000001f};
    const float to_exponent = 12582912.0f + 127;  // leaves n + 127 in low bits
    const vf shifted = x + to_exponent;
    const vf r = x - (shifted - to_exponent);
    return polynomial(coefficients, r) * (vf)((vu)shifted << 23);
}

// The share of the standard normal distribution below -t, for t in [0, 13]; 0 at 13. Its binary
// logarithm is near a parabola; the rest is a polynomial of degree 13, the even and odd halves of
// which do not wait for each other. Within 5e-7 (1 + t²/2) of itself.
constexpr float last_tail = 13;
INLINE vf normal_tail(vf t) {
    constexpr float even[] = {4.9733212e-3f,  -8.9989416e-3f, -3.422586e-3f, -2.6970826e-2f,
                              -6.5460205e-2f, -0.16031359f,   -0.47054094f};
    constexpr float odd[] = {-2.9666105e-3f, 3.3232751e-3f, 2.8032733e-3f, 1.5154237e-2f,
                             4.1425563e-2f,  0.1026097f,    0.25803027f};
    const vf s = t * (1 / 6.5f) - 1.0f, square = s * s;
    const vf rest = polynomial(odd, square) * s + polynomial(even, square);
    return exp2((rest - t * 0.72134752f) * t - 1.0f);
}

// The density of the standard normal distribution for t in [0, 13.2]; 0 at 13.2. Within
// 3e-7 (1 + t²/2) of itself.
constexpr float last_density = 13.2f;
INLINE vf normal_density(vf t) { return exp2(t * -0.72134752f * t - 1.3257481f); }

}  // namespace minillm::MINILLM_ISA
