// 16-bit integers in vectors, and how the small numbers of blocks become such, 32 at a time.
#pragma once

#include "vec.h"

namespace minillm::MINILLM_ISA {

#define ALWAYS inline __attribute__((always_inline))

constexpr int unit = 32;       // numbers unpacked together
constexpr int S = 2 * W;       // 16-bit integers in a vector
constexpr int words = 32 / S;  // vectors of a unit

typedef int16_t vs __attribute__((vector_size(4 * W)));
typedef int16_t vs_unaligned __attribute__((vector_size(4 * W), aligned(1), may_alias));
typedef uint8_t half_bytes __attribute__((vector_size(2 * W)));  // one for each word
typedef int8_t half_signed __attribute__((vector_size(2 * W)));
typedef uint8_t half_bytes_unaligned __attribute__((vector_size(2 * W), aligned(1), may_alias));
typedef int8_t half_signed_unaligned __attribute__((vector_size(2 * W), aligned(1), may_alias));

INLINE vs splat16(int x) { return static_cast<int16_t>(x) - vs{}; }

struct Unit {
    vs v[words];
};

INLINE vs widen(const uint8_t* from) {
#if defined(__AVX512BW__)  // gcc would take it apart
    return (vs)_mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    return (vs)_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    return __builtin_convertvector(*reinterpret_cast<const half_bytes_unaligned*>(from), vs);
#endif
}
INLINE vs widen_signed(const uint8_t* from) {
#if defined(__AVX512BW__)
    return (vs)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    return __builtin_convertvector(*reinterpret_cast<const half_signed_unaligned*>(from), vs);
#endif
}

INLINE vs load16(const int16_t* from) { return *reinterpret_cast<const vs_unaligned*>(from); }

// Sums of the products of neighbours.
INLINE vi multiply_pairs(vs a, vs b) {
#if defined(__AVX512BW__)
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    vi result;
    for (int i = 0; i < W; i++) result[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return result;
#endif
}

// sums + the sums of the products of neighbours.
INLINE vi add_pairs(vi sums, vs a, vs b) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#else
    return sums + multiply_pairs(a, b);
#endif
}

// float16 to float32, exactly; also where denormal operands are taken for 0.
INLINE float half(uint16_t bits) {
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
#else
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    float magnitude;
    if (exponent == 0) {
        magnitude = static_cast<float>(fraction) * 0x1p-24f;
    } else {
        const uint32_t wide = (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
        memcpy(&magnitude, &wide, sizeof wide);
    }
    uint32_t result;
    memcpy(&result, &magnitude, sizeof result);
    result |= sign;
    memcpy(&magnitude, &result, sizeof result);
    return magnitude;
#endif
}
INLINE float half_at(const uint8_t* from) {
    uint16_t bits;
    memcpy(&bits, from, sizeof bits);
    return half(bits);
}

// 16 bytes hold the first 16 numbers in their low halves and the others in their high ones.
INLINE Unit nibbles(const uint8_t* from) {
    Unit u;
#if defined(__AVX512BW__)
    const __m256i low =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    const __m512i both =
        _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(low), _mm256_srli_epi16(low, 4), 1);
    u.v[0] = (vs)both & 15;
#else
    for (int i = 0; i < words / 2; i++) {
        const vs packed = widen(from + i * S);
        u.v[i] = packed & 15;
        u.v[words / 2 + i] = packed >> 4;
    }
#endif
    return u;
}

// The low or the high halves of 32 bytes.
INLINE Unit halves(const uint8_t* from, int shift) {
    Unit u;
    for (int i = 0; i < words; i++) u.v[i] = (widen(from + i * S) >> shift) & 15;
    return u;
}

// 16 where the bit of a number is set, else 0.
INLINE Unit fifth_bits(const uint8_t* from) {
    uint32_t bits;
    memcpy(&bits, from, sizeof bits);
    Unit u;
#if defined(__AVX512BW__)
    u.v[0] = (vs)_mm512_maskz_set1_epi16(bits, 16);
#else
    vs each;
    for (int i = 0; i < S; i++) each[i] = static_cast<int16_t>(1 << i);
    for (int i = 0; i < words; i++) {
        const vs field = splat16(static_cast<int16_t>(bits >> (i * S)));
        u.v[i] = (vs)((field & each) != 0) & 16;
    }
#endif
    return u;
}

typedef float f8 __attribute__((vector_size(32)));
typedef float f8_unaligned __attribute__((vector_size(32), aligned(4), may_alias));

INLINE f8 load8(const float* from) { return *reinterpret_cast<const f8_unaligned*>(from); }

}  // namespace minillm::MINILLM_ISA
