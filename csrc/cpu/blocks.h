// Blocks of small whole numbers that share a scale, as GGUF files hold them (ggml's tensor types),
// unpacked 32 numbers at a time to 16-bit integers: element = d * number + m.
#pragma once

#include "vec.h"

namespace minillm::MINILLM_ISA {

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
    return __builtin_convertvector(*reinterpret_cast<const half_bytes_unaligned*>(from), vs);
}
INLINE vs widen_signed(const uint8_t* from) {
    return __builtin_convertvector(*reinterpret_cast<const half_signed_unaligned*>(from), vs);
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
    if constexpr (words == 1) {
        typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
        typedef uint8_t bytes32 __attribute__((vector_size(32)));
        bytes32 both;
        const auto packed = *reinterpret_cast<const bytes16*>(from);
        const auto low = packed & 15, high = packed >> 4;
        memcpy(&both, &low, 16);
        memcpy(reinterpret_cast<char*>(&both) + 16, &high, 16);
        u.v[0] = widen(reinterpret_cast<const uint8_t*>(&both));
    } else {
        for (int i = 0; i < words / 2; i++) {
            const vs packed = widen(from + i * S);
            u.v[i] = packed & 15;
            u.v[words / 2 + i] = packed >> 4;
        }
    }
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

// What a kind of blocks is made of. `scales` writes d and, with `offsets`, m of each unit (of each
// half unit where `halved`); numbers of a unit are integers of at most 8 bits.
struct Q4_0 {
    static constexpr int units = 1, bytes = 18;
    static constexpr bool offsets = false, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float*) { d[0] = half_at(block); }
    INLINE Unit numbers(const uint8_t* block, int) {
        Unit u = nibbles(block + 2);
        for (vs& v : u.v) v -= 8;
        return u;
    }
};

struct Q4_1 {
    static constexpr int units = 1, bytes = 20;
    static constexpr bool offsets = true, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float* m) {
        d[0] = half_at(block);
        m[0] = half_at(block + 2);
    }
    INLINE Unit numbers(const uint8_t* block, int) { return nibbles(block + 4); }
};

struct Q5_0 {
    static constexpr int units = 1, bytes = 22;
    static constexpr bool offsets = false, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float*) { d[0] = half_at(block); }
    INLINE Unit numbers(const uint8_t* block, int) {
        Unit u = nibbles(block + 6);
        const Unit more = fifth_bits(block + 2);
        for (int i = 0; i < words; i++) u.v[i] = (u.v[i] | more.v[i]) - 16;
        return u;
    }
};

struct Q5_1 {
    static constexpr int units = 1, bytes = 24;
    static constexpr bool offsets = true, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float* m) {
        d[0] = half_at(block);
        m[0] = half_at(block + 2);
    }
    INLINE Unit numbers(const uint8_t* block, int) {
        Unit u = nibbles(block + 8);
        const Unit more = fifth_bits(block + 4);
        for (int i = 0; i < words; i++) u.v[i] |= more.v[i];
        return u;
    }
};

struct Q8_0 {
    static constexpr int units = 1, bytes = 34;
    static constexpr bool offsets = false, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float*) { d[0] = half_at(block); }
    INLINE Unit numbers(const uint8_t* block, int) {
        Unit u;
        for (int i = 0; i < words; i++) u.v[i] = widen_signed(block + 2 + i * S);
        return u;
    }
};

// Six bits of scale and six of offset for each of eight units, in 12 bytes.
INLINE void packed_scales(const uint8_t* block, float* d, float* m) {
    const float scale = half_at(block), offset = half_at(block + 2);
    const uint8_t *first = block + 4, *second = block + 8, *rest = block + 12;
    for (int i = 0; i < 4; i++) {
        d[i] = scale * static_cast<float>(first[i] & 63);
        m[i] = -offset * static_cast<float>(second[i] & 63);
        d[4 + i] = scale * static_cast<float>((rest[i] & 15) | (first[i] >> 2 & 48));
        m[4 + i] = -offset * static_cast<float>(rest[i] >> 4 | (second[i] >> 2 & 48));
    }
}

struct Q4_K {
    static constexpr int units = 8, bytes = 144;
    static constexpr bool offsets = true, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float* m) { packed_scales(block, d, m); }
    INLINE Unit numbers(const uint8_t* block, int i) {
        return halves(block + 16 + i / 2 * 32, i % 2 * 4);
    }
};

struct Q5_K {
    static constexpr int units = 8, bytes = 176;
    static constexpr bool offsets = true, halved = false;
    INLINE void scales(const uint8_t* block, float* d, float* m) { packed_scales(block, d, m); }
    INLINE Unit numbers(const uint8_t* block, int i) {
        Unit u = halves(block + 48 + i / 2 * 32, i % 2 * 4);
        for (int j = 0; j < words; j++) u.v[j] |= (widen(block + 16 + j * S) >> i & 1) << 4;
        return u;
    }
};

struct Q6_K {
    static constexpr int units = 8, bytes = 210;
    static constexpr bool offsets = false, halved = true;
    INLINE void scales(const uint8_t* block, float* d, float*) {
        const float scale = half_at(block + 208);
        for (int i = 0; i < 16; i++)
            d[i] = scale * static_cast<float>(static_cast<int8_t>(block[192 + i]));
    }
    INLINE Unit numbers(const uint8_t* block, int i) {
        const int part = i / 4, group = i % 4;
        const uint8_t *low = block + part * 64 + group % 2 * 32, *high = block + 128 + part * 32;
        Unit u = halves(low, group / 2 * 4);
        for (int j = 0; j < words; j++)
            u.v[j] = (u.v[j] | ((widen(high + j * S) >> (2 * group)) & 3) << 4) - 32;
        return u;
    }
};

// Floats of other formats, W at a time.
struct F32 {
    static constexpr int bytes = 4;
    INLINE vf numbers(const uint8_t* from) {
        vf v;
        memcpy(&v, from, sizeof v);
        return v;
    }
};

struct F16 {
    static constexpr int bytes = 2;
    INLINE vf numbers(const uint8_t* from) {
#if defined(__AVX512F__)
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
        vf v;
        for (int i = 0; i < W; i++) v[i] = half_at(from + 2 * i);
        return v;
#endif
    }
};

struct BF16 {
    static constexpr int bytes = 2;
    INLINE vf numbers(const uint8_t* from) {
        typedef uint16_t some __attribute__((vector_size(2 * W), aligned(1), may_alias));
        typedef uint16_t whole __attribute__((vector_size(2 * W)));
        const whole upper = *reinterpret_cast<const some*>(from);
        return (vf)(__builtin_convertvector(upper, vu) << 16);
    }
};

}  // namespace minillm::MINILLM_ISA
