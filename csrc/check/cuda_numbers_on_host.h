// CUDA's numbers for kernels that run on the host: vectors, bfloat16, functions of arithmetic.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

#define MINILLM_VECTOR(type, name, alignment)                        \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };         \
    struct alignas(alignment) name##4 { type x, y, z, w; };          \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
MINILLM_VECTOR(float, float, 16)
MINILLM_VECTOR(int, int, 16)
MINILLM_VECTOR(unsigned, uint, 16)
MINILLM_VECTOR(int8_t, char, 4)
MINILLM_VECTOR(uint8_t, uchar, 4)
#undef MINILLM_VECTOR

template <class To, class From>
To bits_on_host(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    const auto bits = bits_on_host<uint32_t>(value);
    if (isnan(value)) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float value) { return __float2bfloat16_rn(value); }
inline float __bfloat162float(__nv_bfloat16 value) {
    return bits_on_host<float>(static_cast<uint32_t>(value.bits) << 16);
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 value) {
    return {__bfloat162float(value.x), __bfloat162float(value.y)};
}
inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(uint16_t bits) { return {bits}; }

struct alignas(2) __half {
    uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline float __half2float(__half half) {
    const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
    float value = ldexpf(static_cast<float>(fraction | (exponent ? 1024 : 0)),
                         (exponent ? exponent : 1) - 25);
    if (exponent == 31) value = fraction ? NAN : INFINITY;
    return half.bits >> 15 ? -value : value;
}

inline unsigned __float_as_uint(float value) { return bits_on_host<unsigned>(value); }
inline int __float_as_int(float value) { return bits_on_host<int>(value); }
inline float __uint_as_float(unsigned bits) { return bits_on_host<float>(bits); }
inline float __int_as_float(int bits) { return bits_on_host<float>(bits); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float normcdff(float x) { return static_cast<float>(0.5 * erfc(-x * M_SQRT1_2)); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
// The sum of the products of four bytes and c.
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8)
        c += static_cast<int8_t>(static_cast<unsigned>(a) >> i) *
             static_cast<int8_t>(static_cast<unsigned>(b) >> i);
    return c;
}

// These reach global memory alone, by whole numbers.
template <class T>
T __ldg(const T* address) {
    minillm::on_host::require_global("__ldg", address, alignof(T));
    minillm::on_host::require_unchanged(address, sizeof(T));
    return *address;
}
template <class T>
T __ldcs(const T* address) {
    minillm::on_host::require_global("__ldcs", address, alignof(T));
    return *address;
}
template <class T>
void __stcs(T* address, T value) {
    minillm::on_host::require_global("__stcs", address, alignof(T));
    *address = value;
}
template <class T>
T atomicAdd(T* address, T value) {
    static_assert(std::is_integral_v<T>, "the order of a sum of floats would decide its bits");
    const T before = *address;
    *address = static_cast<T>(before + value);
    return before;
}
template <class T>
T atomicMax(T* address, T value) {
    const T before = *address;
    *address = std::max(before, value);
    return before;
}

using std::max;
using std::min;
