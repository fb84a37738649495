// Blocks of small whole numbers that share a scale, as GGUF files hold them (ggml's tensor types),
// unpacked 32 numbers at a time to 16-bit integers: element = d * number + m.
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
#if defined(__AVX2__) && !defined(__AVX512BW__)  // gcc would take it apart
    return (vs)_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    return __builtin_convertvector(*reinterpret_cast<const half_bytes_unaligned*>(from), vs);
#endif
}
INLINE vs widen_signed(const uint8_t* from) {
#if defined(__AVX2__) && !defined(__AVX512BW__)
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

typedef float f8 __attribute__((vector_size(32)));
typedef float f8_unaligned __attribute__((vector_size(32), aligned(4), may_alias));

INLINE f8 load8(const float* from) { return *reinterpret_cast<const f8_unaligned*>(from); }

// What a kind of blocks is made of: `bytes` for `units`; whether numbers have offsets, and whether
// they have more than 8 bits.

// Small blocks hold one unit. `scales` gives those of four at once: d and m in turn, or where there
// are no offsets, d and nothing.
INLINE f8 scales_with_offsets(const uint8_t* const (&blocks)[4]) {
#if defined(__F16C__)
    int pairs[4];
    for (int i = 0; i < 4; i++) memcpy(pairs + i, blocks[i], 4);
    return (f8)_mm256_cvtph_ps(_mm_setr_epi32(pairs[0], pairs[1], pairs[2], pairs[3]));
#else
    f8 found;
    for (int i = 0; i < 8; i++) found[i] = half_at(blocks[i / 2] + i % 2 * 2);
    return found;
#endif
}
INLINE f8 scales_alone(const uint8_t* const (&blocks)[4]) {
#if defined(__F16C__)
    __m128i bits = _mm_setzero_si128();
    uint16_t each[4];
    for (int i = 0; i < 4; i++) memcpy(each + i, blocks[i], 2);
    bits = _mm_insert_epi16(bits, each[0], 0);
    bits = _mm_insert_epi16(bits, each[1], 2);
    bits = _mm_insert_epi16(bits, each[2], 4);
    bits = _mm_insert_epi16(bits, each[3], 6);
    return (f8)_mm256_cvtph_ps(bits);
#else
    f8 found{};
    for (int i = 0; i < 4; i++) found[2 * i] = half_at(blocks[i]);
    return found;
#endif
}

struct Q4_0 {
    static constexpr bool offsets = false, wide = false;
    static constexpr int units = 1, bytes = 18;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u = nibbles(block + 2);
        for (vs& v : u.v) v -= 8;
        return u;
    }
};

struct Q4_1 {
    static constexpr bool offsets = true, wide = false;
    static constexpr int units = 1, bytes = 20;
    INLINE Unit numbers(const uint8_t* block) { return nibbles(block + 4); }
};

struct Q5_0 {
    static constexpr bool offsets = false, wide = false;
    static constexpr int units = 1, bytes = 22;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u = nibbles(block + 6);
        const Unit more = fifth_bits(block + 2);
        for (int i = 0; i < words; i++) u.v[i] = (u.v[i] | more.v[i]) - 16;
        return u;
    }
};

struct Q5_1 {
    static constexpr bool offsets = true, wide = false;
    static constexpr int units = 1, bytes = 24;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u = nibbles(block + 8);
        const Unit more = fifth_bits(block + 4);
        for (int i = 0; i < words; i++) u.v[i] |= more.v[i];
        return u;
    }
};

struct Q8_0 {
    static constexpr bool offsets = false, wide = false;
    static constexpr int units = 1, bytes = 34;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u;
        for (int i = 0; i < words; i++) u.v[i] = widen_signed(block + 2 + i * S);
        return u;
    }
};

// Large blocks hold eight units. They are opened first, which gives d and m of each.
INLINE f8 eight(const uint8_t* from) {
#if defined(__AVX2__)  // gcc would convert one by one
    return (f8)_mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
    typedef uint8_t bytes8 __attribute__((vector_size(8), aligned(1), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const bytes8*>(from), f8);
#endif
}

// Six bits of scale and six of offset for each unit, in 12 bytes.
INLINE void packed_scales(const uint8_t* block, f8& d, f8& m) {
    constexpr uint32_t six = 0x3f3f3f3f, four = 0x0f0f0f0f, two = 0x03030303;
    uint32_t packed[3], scales[2], offsets[2];
    memcpy(packed, block + 4, sizeof packed);
    scales[0] = packed[0] & six;
    scales[1] = (packed[2] & four) | (packed[0] >> 6 & two) << 4;
    offsets[0] = packed[1] & six;
    offsets[1] = (packed[2] >> 4 & four) | (packed[1] >> 6 & two) << 4;
    d = eight(reinterpret_cast<const uint8_t*>(scales)) * half_at(block);
    m = eight(reinterpret_cast<const uint8_t*>(offsets)) * -half_at(block + 2);
}

struct Q4_K {
    static constexpr bool offsets = true, wide = false;
    static constexpr int units = 8, bytes = 144;
    const uint8_t* const block;
    f8 d, m;

    explicit ALWAYS Q4_K(const uint8_t* block) : block(block) { packed_scales(block, d, m); }
    ALWAYS Unit numbers(int i) const { return halves(block + 16 + i / 2 * 32, i % 2 * 4); }
};

struct Q5_K {
    static constexpr bool offsets = true, wide = false;
    static constexpr int units = 8, bytes = 176;
    const uint8_t* const block;
    f8 d, m;

    explicit ALWAYS Q5_K(const uint8_t* block) : block(block) { packed_scales(block, d, m); }
    ALWAYS Unit numbers(int i) const {
        Unit u = halves(block + 48 + i / 2 * 32, i % 2 * 4);
        for (int j = 0; j < words; j++) u.v[j] |= (widen(block + 16 + j * S) >> i & 1) << 4;
        return u;
    }
};

// Each half of a unit has a scale of its own, a whole number: it goes into the numbers.
struct Q6_K {
    static constexpr bool offsets = false, wide = true;
    static constexpr int units = 8, bytes = 210;
    const uint8_t* const block;
    f8 d;
    int16_t scales[16];

    explicit ALWAYS Q6_K(const uint8_t* block) : block(block), d(half_at(block + 208) - f8{}) {
        for (int i = 0; i < 16; i++) scales[i] = static_cast<int8_t>(block[192 + i]);
    }
    ALWAYS Unit numbers(int i) const {
        const int part = i / 4, group = i % 4;
        const uint8_t *low = block + part * 64 + group % 2 * 32, *high = block + 128 + part * 32;
        Unit u = halves(low, group / 2 * 4);
        for (int j = 0; j < words; j++) {
            u.v[j] = (u.v[j] | ((widen(high + j * S) >> (2 * group)) & 3) << 4) - 32;
            u.v[j] *= scale_of(2 * i + j * S / 16);
        }
        return u;
    }
    ALWAYS vs scale_of(int first) const {
#if defined(__AVX512BW__)
        return (vs)_mm512_inserti64x4(_mm512_set1_epi16(scales[first]),
                                      _mm256_set1_epi16(scales[first + 1]), 1);
#else
        return splat16(scales[first]);
#endif
    }
};

// Floats of other formats, W at a time.
struct F32 {
    static constexpr bool offsets = false, wide = false;
    static constexpr int units = 0, bytes = 4;
    INLINE vf numbers(const uint8_t* from) {
        vf v;
        memcpy(&v, from, sizeof v);
        return v;
    }
};

struct F16 {
    static constexpr bool offsets = false, wide = false;
    static constexpr int units = 0, bytes = 2;
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
    static constexpr bool offsets = false, wide = false;
    static constexpr int units = 0, bytes = 2;
    INLINE vf numbers(const uint8_t* from) {
        typedef uint16_t some __attribute__((vector_size(2 * W), aligned(1), may_alias));
        typedef uint16_t whole __attribute__((vector_size(2 * W)));
        const whole upper = *reinterpret_cast<const some*>(from);
        return (vf)(__builtin_convertvector(upper, vu) << 16);
    }
};

// The first numbers of W; nothing is read beyond them.
template <class Number>
INLINE vf some(const uint8_t* from, Whole) {
    return Number::numbers(from);
}
template <class Number>
INLINE vf some(const uint8_t* from, First lanes) {
    uint8_t copy[W * Number::bytes] = {};
    memcpy(copy, from, lanes.count * Number::bytes);
    return Number::numbers(copy);
}

template <class Kind>
INLINE int64_t line_bytes(int64_t k) {
    if constexpr (Kind::units == 0)
        return k * Kind::bytes;
    else
        return k / (unit * Kind::units) * Kind::bytes;
}

}  // namespace minillm::MINILLM_ISA
