// Vectors of floats as wide as the instruction set that this file is being compiled for.
// Only compiler extensions and static functions: nothing here may leave a symbol that code compiled
// for a lesser processor could link to.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace minillm::MINILLM_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef float vf_unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

INLINE vf load(const float* from) { return *reinterpret_cast<const vf_unaligned*>(from); }
INLINE void store(float* to, vf v) { *reinterpret_cast<vf_unaligned*>(to) = v; }
INLINE vf splat(float x) { return x - vf{}; }
INLINE vi splat(int32_t x) { return x - vi{}; }

// Keeps a product from melting into the addition that follows, which would give other bits.
INLINE vf rounded(vf product) {
#if defined(__SSE2__)
    __asm__("" : "+x"(product));
#elif defined(__aarch64__)
    __asm__("" : "+w"(product));
#else
    __asm__("" : "+m"(product));
#endif
    return product;
}

INLINE float infinity() { return __builtin_inff(); }

// Part of a vector at the end of a row: the first `count` lanes, 0 < count < W.
struct Whole {};
struct First {
    int64_t count;
};

INLINE vf load(const float* from, Whole, float = 0) { return load(from); }
INLINE void store(float* to, vf v, Whole) { store(to, v); }
#if defined(__AVX512F__)
INLINE __mmask16 mask(First lanes) { return static_cast<__mmask16>((1u << lanes.count) - 1); }
INLINE vf load(const float* from, First lanes, float others = 0) {
    return _mm512_mask_loadu_ps(splat(others), mask(lanes), from);
}
INLINE void store(float* to, vf v, First lanes) { _mm512_mask_storeu_ps(to, mask(lanes), v); }
#else
INLINE vf load(const float* from, First lanes, float others = 0) {
    float copy[W];
    store(copy, splat(others));
    memcpy(copy, from, sizeof(float) * lanes.count);
    return load(copy);
}
INLINE void store(float* to, vf v, First lanes) {
    float copy[W];
    store(copy, v);
    memcpy(to, copy, sizeof(float) * lanes.count);
}
#endif

// Calls f(i, lanes) for the vectors that begin at i = first, first + W, ..., the last with part of
// its lanes if `end` demands it.
template <class F>
INLINE void over_vectors(int64_t first, int64_t end, const F& f) {
    int64_t i = first;
    for (; i + W <= end; i += W) f(i, Whole{});
    if (i < end) f(i, First{end - i});
}

INLINE vf select(vi condition, vf yes, vf no) { return condition ? yes : no; }

// The second operand where either is NaN. (The zero-masked forms spare a false warning of gcc's.)
#if defined(__AVX512F__)
constexpr __mmask16 all_lanes = 0xffff;
INLINE vf max(vf a, vf b) { return _mm512_maskz_max_ps(all_lanes, a, b); }
INLINE vf min(vf a, vf b) { return _mm512_maskz_min_ps(all_lanes, a, b); }
INLINE vf square_root(vf a) { return _mm512_maskz_sqrt_ps(all_lanes, a); }
#elif defined(__AVX2__)
INLINE vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf square_root(vf a) { return _mm256_sqrt_ps(a); }
#elif defined(__SSE2__)
INLINE vf max(vf a, vf b) { return _mm_max_ps(a, b); }
INLINE vf min(vf a, vf b) { return _mm_min_ps(a, b); }
INLINE vf square_root(vf a) { return _mm_sqrt_ps(a); }
#else
INLINE vf max(vf a, vf b) { return select(a > b, a, b); }
INLINE vf min(vf a, vf b) { return select(a < b, a, b); }
INLINE vf square_root(vf a) {
    for (int i = 0; i < W; i++) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
#endif
// 1 / a within 1 ulp, for a normal and not huge.
INLINE vf reciprocal(vf a) {
#if defined(__AVX512F__)
    const vf guess = _mm512_maskz_rcp14_ps(all_lanes, a);  // one step of Newton's is enough
    return guess + guess * (1.0f - a * guess);
#else
    return 1.0f / a;
#endif
}
INLINE vf magnitude(vf a) { return (vf)((vi)a & 0x7fffffff); }

// Shuffles, written once for every width.
template <int... I>
struct Lanes {};
#if defined(__AVX512F__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

// The elements I... of a and b in a row.
template <int... I, class V>
INLINE V shuffle(V a, V b) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, I...);
#else  // gcc 11
    return __builtin_shuffle(a, b, vi{I...});
#endif
}

template <int H, int... I>
INLINE vf rotate(vf v, Lanes<I...>) {
    return shuffle<(I + H) % W...>(v, v);
}

// Horizontal results, always folded in the same order.
template <int H = W / 2>
INLINE float sum(vf v) {
    v += rotate<H>(v, AllLanes{});
    if constexpr (H == 1)
        return v[0];
    else
        return sum<H / 2>(v);
}
template <int H = W / 2>
INLINE float largest(vf v) {
    v = max(v, rotate<H>(v, AllLanes{}));
    if constexpr (H == 1)
        return v[0];
    else
        return largest<H / 2>(v);
}

// Exchanges the off-diagonal blocks of size H in a pair of rows H apart.
template <int H, int... I>
INLINE void exchange(vf& a, vf& b, Lanes<I...>) {
    const vf upper = shuffle<((I & H) ? W + I - H : I)...>(a, b);
    b = shuffle<((I & H) ? W + I : I + H)...>(a, b);
    a = upper;
}
template <int H = W / 2>
INLINE void transpose(vf (&rows)[W]) {
    for (int i = 0; i < W; i++)
        if (!(i & H)) exchange<H>(rows[i], rows[i + H], AllLanes{});
    if constexpr (H > 1) transpose<H / 2>(rows);
}

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace minillm::MINILLM_ISA
