// Blocks of small whole numbers that share a scale, as GGUF files hold them (ggml's tensor types),
// unpacked 32 numbers at a time to 16-bit integers: element = d * number + m.
#pragma once

#include "../block_size.h"
#include "words.h"

namespace minillm::MINILLM_ISA {

// What a kind of blocks is made of: `bytes` for `units`, none of these where each number is alone;
// and for each, whether numbers have offsets, and whether they have more than 8 bits.
template <int number>
struct OfKind {
    static constexpr int kind = number;
    static constexpr int units = size_of_kind(kind).numbers / unit;
    static constexpr int bytes = size_of_kind(kind).bytes;
};

// Small blocks hold one unit.
struct Q4_0 : OfKind<2> {
    static constexpr bool offsets = false, wide = false;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u = nibbles(block + 2);
        for (vs& v : u.v) v -= 8;
        return u;
    }
};

struct Q4_1 : OfKind<3> {
    static constexpr bool offsets = true, wide = false;
    INLINE Unit numbers(const uint8_t* block) { return nibbles(block + 4); }
};

struct Q5_0 : OfKind<6> {
    static constexpr bool offsets = false, wide = false;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u = nibbles(block + 6);
        const Unit more = fifth_bits(block + 2);
        for (int i = 0; i < words; i++) u.v[i] = (u.v[i] | more.v[i]) - 16;
        return u;
    }
};

struct Q5_1 : OfKind<7> {
    static constexpr bool offsets = true, wide = false;
    INLINE Unit numbers(const uint8_t* block) {
        Unit u = nibbles(block + 8);
        const Unit more = fifth_bits(block + 4);
        for (int i = 0; i < words; i++) u.v[i] |= more.v[i];
        return u;
    }
};

struct Q8_0 : OfKind<8> {
    static constexpr bool offsets = false, wide = false;
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

struct Q4_K : OfKind<12> {
    static constexpr bool offsets = true, wide = false;
    const uint8_t* const block;
    f8 d, m;

    explicit ALWAYS Q4_K(const uint8_t* block) : block(block) { packed_scales(block, d, m); }
    ALWAYS Unit numbers(int i) const { return halves(block + 16 + i / 2 * 32, i % 2 * 4); }
};

struct Q5_K : OfKind<13> {
    static constexpr bool offsets = true, wide = false;
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
struct Q6_K : OfKind<14> {
    static constexpr bool offsets = false, wide = true;
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
        return (vs)_mm512_maskz_inserti64x4(0xff, _mm512_set1_epi16(scales[first]),
                                            _mm256_set1_epi16(scales[first + 1]), 1);
#else
        return splat16(scales[first]);
#endif
    }
};

// Floats of other formats, W at a time.
struct F32 : OfKind<0> {
    static constexpr bool offsets = false, wide = false;
    INLINE vf numbers(const uint8_t* from) {
        vf v;
        memcpy(&v, from, sizeof v);
        return v;
    }
};

struct F16 : OfKind<1> {
    static constexpr bool offsets = false, wide = false;
    INLINE vf numbers(const uint8_t* from) {
#if defined(__AVX512F__)
        return _mm512_maskz_cvtph_ps(all_lanes,
                                     _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
        vf v;
        for (int i = 0; i < W; i++) v[i] = half_at(from + 2 * i);
        return v;
#endif
    }
};

struct BF16 : OfKind<30> {
    static constexpr bool offsets = false, wide = false;
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
