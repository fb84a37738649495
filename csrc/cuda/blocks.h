// Blocks of small whole numbers that share a scale, as GGUF files hold them (ggml's tensor types),
// opened eight numbers at a time: two groups of four that lie a part of the block apart, because
// that is where the two halves of a byte belong.
#pragma once

#include "../block_size.h"
#include "launch.h"
#ifndef MINILLM_CUDA_ON_HOST
#include <cuda_fp16.h>
#endif

namespace minillm::device {

// Eight elements, those of a group being d * number + m.
struct Piece {
    float numbers[2][4], d[2], m[2];
};

__device__ __forceinline__ uint32_t pair_at(const uint8_t* from) {
    return __ldg(reinterpret_cast<const uint16_t*>(from));
}
__device__ __forceinline__ float half_at(const uint8_t* from) {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(pair_at(from))));
}
// Four bytes at an even address.
__device__ __forceinline__ uint32_t bytes_at(const uint8_t* from) {
    return pair_at(from) | pair_at(from + 2) << 16;
}
// A whole number below 2^23 as a float: put into the mantissa of 2^23, which is then taken away.
__device__ __forceinline__ float to_float(uint32_t number) {
    return __uint_as_float(number | 0x4B000000u) - 8388608.0f;
}
__device__ __forceinline__ uint32_t nibble(uint32_t bytes, int half, int i) {
    return bytes >> (8 * i + 4 * half) & 15;
}

// A kind of blocks: `pieces` lanes open one. open(block, piece, left): `left` numbers of the row
// begin here. The groups of a piece begin at start(piece, 0) and start(piece, 1).
template <int number>
struct OfKind {
    static constexpr int kind = number;
    static constexpr int numbers = size_of_kind(kind).numbers, bytes = size_of_kind(kind).bytes;
    static constexpr int pieces = numbers / 8, alignment = 2;
    __host__ __device__ static int64_t row_bytes(int64_t k) { return k / numbers * bytes; }
};

// 32 numbers: those of the low halves of 16 bytes, then those of the high ones.
template <int number>
struct SmallBlock : OfKind<number> {
    __device__ static int start(int piece, int half) { return 16 * half + 4 * piece; }
};

// `has_offset`: m stands after d; else `zero` is taken from each number. `fifth`: a bit more.
template <int number, bool has_offset, bool fifth>
struct Nibbles : SmallBlock<number> {
    __device__ static Piece open(const uint8_t* block, int piece, int64_t) {
        constexpr int head = has_offset ? 4 : 2;
        constexpr float zero = has_offset ? 0 : (fifth ? 16 : 8);
        const uint32_t low = bytes_at(block + head + (fifth ? 4 : 0) + 4 * piece);
        const uint32_t high = fifth ? bytes_at(block + head) : 0;
        const float d = half_at(block), m = has_offset ? half_at(block + 2) : 0;
        Piece p{{}, {d, d}, {m, m}};
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t value = nibble(low, half, i);
                if (fifth) value |= (high >> (16 * half + 4 * piece + i) & 1) << 4;
                p.numbers[half][i] = to_float(value) - zero;
            }
        return p;
    }
};
using Q4_0 = Nibbles<2, false, false>;
using Q4_1 = Nibbles<3, true, false>;
using Q5_0 = Nibbles<6, false, true>;
using Q5_1 = Nibbles<7, true, true>;

struct Q8_0 : SmallBlock<8> {
    __device__ static Piece open(const uint8_t* block, int piece, int64_t) {
        const float d = half_at(block);
        Piece p{{}, {d, d}, {0, 0}};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t word = bytes_at(block + 2 + 16 * half + 4 * piece);
#pragma unroll
            for (int i = 0; i < 4; i++)  // from signed to unsigned by turning the sign
                p.numbers[half][i] = to_float((word >> 8 * i & 255) ^ 128) - 128;
        }
        return p;
    }
};

// 256 numbers in eight groups of 32 with six bits of scale and six of offset; `fifth`: a bit more.
template <int number, bool fifth>
struct Grouped : OfKind<number> {
    __device__ static int start(int piece, int half) {
        return piece / 8 * 64 + 32 * half + piece % 8 * 4;
    }
    __device__ static Piece open(const uint8_t* block, int piece, int64_t) {
        const int at = piece % 8 * 4;
        const uint32_t low = bytes_at(block + (fifth ? 48 : 16) + piece / 8 * 32 + at);
        const uint32_t high = fifth ? bytes_at(block + 16 + at) : 0;
        const float d = half_at(block), m = half_at(block + 2);
        Piece p;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int group = piece / 8 * 2 + half;
            p.d[half] = d * to_float(six_bits(block + 4, group, 0));
            p.m[half] = -m * to_float(six_bits(block + 4, group, 4));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t value = nibble(low, half, i);
                if (fifth) value |= (high >> (8 * i + group) & 1) << 4;
                p.numbers[half][i] = to_float(value);
            }
        }
        return p;
    }
    // The scale (from 0) or offset (from 4) of a group: those of the last four are in two parts.
    __device__ static uint32_t six_bits(const uint8_t* packed, int group, int from) {
        if (group < 4) return __ldg(packed + from + group) & 63;
        const uint32_t low = __ldg(packed + 4 + group) >> from & 15;
        return low | (__ldg(packed + from + group - 4) >> 2 & 48);
    }
};
using Q4_K = Grouped<12, false>;
using Q5_K = Grouped<13, true>;

// 256 numbers of four bits and two, 16 of which share a scale that is a whole number.
struct Q6_K : OfKind<14> {
    __device__ static int start(int piece, int half) {
        return piece / 16 * 128 + half * 64 + piece % 16 * 4;
    }
    __device__ static Piece open(const uint8_t* block, int piece, int64_t) {
        const int at = piece % 16 * 4, group = at / 32;
        const uint32_t low = bytes_at(block + piece / 16 * 64 + at);
        const uint32_t high = bytes_at(block + 128 + piece / 16 * 32 + at % 32);
        const float d = half_at(block + 208);
        Piece p{{}, {}, {0, 0}};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const auto scale = static_cast<int8_t>(__ldg(block + 192 + start(piece, half) / 16));
            p.d[half] = d * static_cast<float>(scale);
            const int shift = 2 * (group + 2 * half);
#pragma unroll
            for (int i = 0; i < 4; i++)
                p.numbers[half][i] =
                    to_float(nibble(low, half, i) | (high >> (8 * i + shift) & 3) << 4) - 32;
        }
        return p;
    }
};

// Numbers that stand alone, taken 256 at a time like a block; a row may end within.
template <class Number, int number>
struct Plain {
    static constexpr int kind = number, numbers = 256, pieces = 32;
    static constexpr int bytes = numbers * size_of_kind(kind).bytes;
    static constexpr int alignment = size_of_kind(kind).bytes;
    __host__ __device__ static int64_t row_bytes(int64_t k) { return k * alignment; }

    __device__ static int start(int piece, int half) { return 128 * half + 4 * piece; }
    __device__ static Piece open(const uint8_t* block, int piece, int64_t left) {
        Piece p{{}, {1, 1}, {0, 0}};
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = start(piece, half) + i;
                p.numbers[half][i] = at < left ? Number::of(block + at * alignment) : 0;
            }
        return p;
    }
};
struct Single {
    __device__ static float of(const uint8_t* from) {
        return __ldg(reinterpret_cast<const float*>(from));
    }
};
struct Half {
    __device__ static float of(const uint8_t* from) { return half_at(from); }
};
struct UpperHalf {
    __device__ static float of(const uint8_t* from) { return __uint_as_float(pair_at(from) << 16); }
};
using F32 = Plain<Single, 0>;
using F16 = Plain<Half, 1>;
using BF16 = Plain<UpperHalf, 30>;

}  // namespace minillm::device
