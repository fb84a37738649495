// W lines of a weight of small blocks, each in a lane of its own, meet rows of 16-bit integers: 32
// numbers of a line sum up exactly before their scale is due. What is unpacked serves all rows.
#pragma once

#include "rounded.h"

namespace minillm::MINILLM_ISA {

// W lines, `stride` bytes apart.
struct LineGroup {
    const uint8_t* first;
    int64_t stride;
    vi starts;  // of the lines, from the first on

    LineGroup(const uint8_t* first, int64_t stride) : first(first), stride(stride) {
        for (int i = 0; i < W; i++) starts[i] = static_cast<int32_t>(i * stride);
    }

    // Part of the W lines that follow: as far on as `block` bytes into each of these, `bytes` of
    // each. Lines are too short for the processor to foresee the next.
    ALWAYS void fetch_next(int64_t block, int64_t bytes) const {
        const uint8_t* next = first + W * (stride + block);
        for (int64_t i = 0; i < W * bytes; i += 64) __builtin_prefetch(next + i);
    }

    // The 32 bits of each line that lie `offset` bytes behind its start.
    ALWAYS vi word(int64_t offset) const {
#if defined(__AVX512F__)
        return (vi)_mm512_mask_i32gather_epi32(__m512i{}, all_lanes, (__m512i)starts,
                                               first + offset, 1);
#elif defined(__AVX2__)
        return (vi)_mm256_i32gather_epi32(reinterpret_cast<const int*>(first + offset),
                                          (__m256i)starts, 1);
#else
        vi found;
        for (int i = 0; i < W; i++) {
            int32_t bits;
            memcpy(&bits, first + offset + i * stride, sizeof bits);
            found[i] = bits;
        }
        return found;
#endif
    }

    // Four times 32 bits in a row.
    ALWAYS void words(int64_t offset, vi (&found)[4]) const {
        const uint8_t* from = first + offset;
#if defined(__AVX2__)
        vi lines[4];
        for (int i = 0; i < 4; i++) lines[i] = every_fourth(from + i * stride);
        const vi ab = lower(lines[0], lines[1]), ab_upper = upper(lines[0], lines[1]),
                 cd = lower(lines[2], lines[3]), cd_upper = upper(lines[2], lines[3]);
        found[0] = lower_pairs(ab, cd);
        found[1] = upper_pairs(ab, cd);
        found[2] = lower_pairs(ab_upper, cd_upper);
        found[3] = upper_pairs(ab_upper, cd_upper);
#else
        vf lines[4];
        for (int i = 0; i < 4; i++) memcpy(&lines[i], from + i * stride, sizeof lines[i]);
        transpose(lines);
        for (int i = 0; i < 4; i++) found[i] = (vi)lines[i];
#endif
    }

 private:
#if defined(__AVX2__)
    INLINE __m128i bytes16(const uint8_t* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    }
#endif
#if defined(__AVX512F__)
    ALWAYS vi every_fourth(const uint8_t* from) const {
        __m512i v = _mm512_castsi128_si512(bytes16(from));
        v = _mm512_maskz_inserti32x4(all_lanes, v, bytes16(from + 4 * stride), 1);
        v = _mm512_maskz_inserti32x4(all_lanes, v, bytes16(from + 8 * stride), 2);
        return (vi)_mm512_maskz_inserti32x4(all_lanes, v, bytes16(from + 12 * stride), 3);
    }
    INLINE vi lower(vi a, vi b) {
        return (vi)_mm512_maskz_unpacklo_epi32(all_lanes, (__m512i)a, (__m512i)b);
    }
    INLINE vi upper(vi a, vi b) {
        return (vi)_mm512_maskz_unpackhi_epi32(all_lanes, (__m512i)a, (__m512i)b);
    }
    INLINE vi lower_pairs(vi a, vi b) {
        return (vi)_mm512_maskz_unpacklo_epi64(0xff, (__m512i)a, (__m512i)b);
    }
    INLINE vi upper_pairs(vi a, vi b) {
        return (vi)_mm512_maskz_unpackhi_epi64(0xff, (__m512i)a, (__m512i)b);
    }
#elif defined(__AVX2__)
    ALWAYS vi every_fourth(const uint8_t* from) const {
        return (vi)_mm256_inserti128_si256(_mm256_castsi128_si256(bytes16(from)),
                                           bytes16(from + 4 * stride), 1);
    }
    INLINE vi lower(vi a, vi b) { return (vi)_mm256_unpacklo_epi32((__m256i)a, (__m256i)b); }
    INLINE vi upper(vi a, vi b) { return (vi)_mm256_unpackhi_epi32((__m256i)a, (__m256i)b); }
    INLINE vi lower_pairs(vi a, vi b) { return (vi)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
    INLINE vi upper_pairs(vi a, vi b) { return (vi)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#endif
};

// float16 in the low halves, as floats.
INLINE vf low_halves(vi bits) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(all_lanes, _mm512_maskz_cvtepi32_epi16(all_lanes, (__m512i)bits));
#elif defined(__AVX2__) && defined(__F16C__)
    const __m256i low = (__m256i)(bits & 0xffff);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
#else
    vf found;
    for (int i = 0; i < W; i++) found[i] = half(static_cast<uint16_t>(bits[i]));
    return found;
#endif
}

// Calls f(pair, numbers) for pairs of numbers of each line; which a pair is, RoundedRow says.
template <class Kind, class F>
ALWAYS void over_pairs(const LineGroup& lines, int64_t block, const F& f) {
    typedef uint16_t unsigned_words __attribute__((vector_size(4 * W)));
    vi found[4];
    if constexpr (Kind::kind == Q8_0::kind) {
        for (int part = 0; part < 2; part++) {
            lines.words(block + 2 + 16 * part, found);
            for (int i = 0; i < 4; i++) {
                const vs both = (vs)found[i];
                f(8 * part + 2 * i, (both << 8) >> 8);
                f(8 * part + 2 * i + 1, both >> 8);
            }
        }
    } else {
        constexpr bool five = Kind::bytes - unit / 2 > 4;
        constexpr int middle = Kind::offsets ? 0 : five ? 16 : 8;
        vi fifth{};
        if constexpr (five) fifth = lines.word(block + Kind::bytes - 20);
        lines.words(block + Kind::bytes - 16, found);
        for (int i = 0; i < 4; i++) {
            const auto nibbles = (unsigned_words)found[i];
            for (int shift = 0; shift < 4; shift++) {
                const int number = 4 * i + shift / 2 + 16 * (shift % 2);
                vs numbers = (vs)(nibbles >> (4 * shift) & 15);
                if constexpr (five) {
                    const vi byte = fifth >> number / 8 * 8 & 255;
                    const vs wanted = (vs)splat((1 << number % 8) | (4 << number % 8) << 16);
                    numbers |= (vs)(((vs)(byte | byte << 16) & wanted) != 0) & 16;
                }
                f(number / 2 + number % 2, numbers - splat16(middle));
            }
        }
    }
}

// Products of the lines with R rows, `blocks` blocks deep.
template <class Kind, int R>
ALWAYS void multiply_lines(const LineGroup& lines, int64_t blocks, const RoundedRow (&rows)[R],
                           vf (&sums)[R]) {
    constexpr int chains = R == 1 ? 2 : 1;  // that none waits long for the product before
    for (int r = 0; r < R; r++) sums[r] = vf{};
    for (int64_t b = 0; b < blocks; b++) {
        lines.fetch_next(b * Kind::bytes, Kind::bytes);
        vi products[R][chains] = {};
        over_pairs<Kind>(lines, b * Kind::bytes,
                         [&](int pair, vs numbers) __attribute__((always_inline)) {
                             for (int r = 0; r < R; r++) {
                                 int32_t both;
                                 memcpy(&both, rows[r].pairs + b * unit + 2 * pair, sizeof both);
                                 vi& sum = products[r][pair % chains];
                                 sum = add_pairs(sum, numbers, (vs)splat(both));
                             }
                         });
        const vi scales = lines.word(b * Kind::bytes);
        const vf d = low_halves(scales);
        for (int r = 0; r < R; r++) {
            vi product = products[r][0];
            if constexpr (chains == 2) product += products[r][1];
            sums[r] += __builtin_convertvector(product, vf) * (d * splat(rows[r].scales[b]));
        }
        if constexpr (Kind::offsets) {
            const vf m = low_halves((vi)((vu)scales >> 16));
            for (int r = 0; r < R; r++) sums[r] += m * splat(rows[r].sums[b]);
        }
    }
}

}  // namespace minillm::MINILLM_ISA
