// Numbers as products take them, float32 or bfloat16.
#pragma once

#include "products.h"
#include "rows.h"

namespace minillm::device {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(bf16 value) { return __bfloat162float(value); }

template <int N>
struct alignas(2 * N) HalfPack {
    bf16 at[N];
};

template <int N>
__device__ __forceinline__ Pack<N> load(const bf16* from) {
    const auto half = *reinterpret_cast<const HalfPack<N>*>(from);
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.at[i] = widen(half.at[i]);
    return pack;
}

template <int N>
__device__ __forceinline__ Pack<N> own(const bf16* from) {
    return load<N>(from);
}

template <int N>
__device__ __forceinline__ void store(bf16* to, const Pack<N>& pack) {
    HalfPack<N> half;
#pragma unroll
    for (int i = 0; i < N; i++) half.at[i] = __float2bfloat16_rn(pack.at[i]);
    *reinterpret_cast<HalfPack<N>*>(to) = half;
}

}  // namespace minillm::device
