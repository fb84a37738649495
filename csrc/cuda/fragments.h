// Products of tiles in shared memory on tensor cores, in one of two precisions: operands rounded to
// bfloat16, or float32 as a sum of two numbers of TF32 whose products are all but the last taken,
// which keeps 22 bits (Ootomo and Yokota, 2022, arXiv:2203.03341).
#pragma once

#include "mma.h"

namespace minillm::device {

// Rows of `width` elements in shared memory. Chunks of 16 bytes change places within their row, by
// a pattern that has a period of 8 rows, so that no 8 rows of a column share a bank.
template <class T, int width>
struct Tile {
    static constexpr int in_chunk = 16 / sizeof(T), chunks = width / in_chunk;
    static constexpr int stride = (chunks < 8 ? 8 : chunks) * in_chunk;
    T* data;

    __device__ T* chunk(int row, int number) const {
        return data + row * stride + (number ^ (row & 7)) * in_chunk;
    }
    __device__ T* at(int row, int column) const {
        return chunk(row, column / in_chunk) + column % in_chunk;
    }
};

// `rows` rows of contiguous memory on their way into a tile.
template <int threads, class T, int width>
__device__ __forceinline__ void copy_rows(const Tile<T, width>& to, const T* from, int rows) {
    constexpr int chunks = Tile<T, width>::chunks, in_chunk = Tile<T, width>::in_chunk;
    for (int i = threadIdx.x; i < rows * chunks; i += threads)
        copy_async(to.chunk(i / chunks, i % chunks), from + static_cast<int64_t>(i) * in_chunk);
}

// body(tile) for tiles [begin, end), each with the copies into shared memory that fetch(tile) has
// asked for; those of the next one are on their way meanwhile where there is room for two.
template <int room = 2, class Fetch, class Body>
__device__ __forceinline__ void stream(int begin, int end, const Fetch& fetch, const Body& body) {
    constexpr int ahead = room - 1;
    if (ahead && begin < end) fetch(begin);
    commit_copies();
    for (int tile = begin; tile < end; tile++) {
        if (tile + ahead < end) fetch(tile + ahead);
        commit_copies();
        wait_for_copies<ahead>();
        __syncthreads();
        body(tile);
        __syncthreads();  // before another tile takes its place
    }
    wait_for_copies<0>();
}

struct Bf16 {
    using Element = uint16_t;
    static constexpr int depth = 16;  // of one product
    struct A {
        uint32_t part[4];
    };
    struct B {
        uint32_t part[2];
    };

    static __device__ __forceinline__ void multiply(float (&c)[4], const A& a, const B& b) {
        multiply_bf16(c, a.part, b.part);
    }

    // Rows from `row` and columns from `k` of the tile.
    template <int width>
    static __device__ __forceinline__ A rows(const Tile<Element, width>& tile, int row, int k) {
        const int lane = lane_index();
        A a;
        load_matrices(a.part, tile.at(row + lane % 16, k + lane / 16 * 8));
        return a;
    }

    // The tile transposed: 16 of its rows from `row` on are the columns of two operands.
    template <int width>
    static __device__ __forceinline__ void transposed(B (&b)[2], const Tile<Element, width>& tile,
                                                      int row, int k) {
        const int lane = lane_index();
        uint32_t part[4];
        load_matrices(part, tile.at(row + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
        for (int i = 0; i < 4; i++) b[i / 2].part[i % 2] = part[i];
    }

    // The sums c of `depth` columns as operand for the products with `columns`.
    static __device__ __forceinline__ A from_sums(const float (*c)[4]) {
        return {{pack_bf16(c[0][0], c[0][1]), pack_bf16(c[0][2], c[0][3]),
                 pack_bf16(c[1][0], c[1][1]), pack_bf16(c[1][2], c[1][3])}};
    }

    // Rows from `k` of the tile, 16 of its columns from `column` on for two operands.
    template <int width>
    static __device__ __forceinline__ void columns(B (&b)[2], const Tile<Element, width>& tile,
                                                   int k, int column) {
        const int lane = lane_index();
        uint32_t part[4];
        load_transposed(part, tile.at(k + lane % 16, column + lane / 16 * 8));
        for (int i = 0; i < 4; i++) b[i / 2].part[i % 2] = part[i];
    }
};

struct Tf32x3 {
    using Element = float;
    static constexpr int depth = 8;
    struct A {
        uint32_t high[4], low[4];
    };
    struct B {
        uint32_t high[2], low[2];
    };

    static __device__ __forceinline__ void split(float x, uint32_t& high, uint32_t& low) {
        const float first = round_tf32(x);
        high = __float_as_uint(first);
        low = __float_as_uint(round_tf32(x - first));
    }

    static __device__ __forceinline__ void multiply(float (&c)[4], const A& a, const B& b) {
        multiply_tf32x3(c, a.high, a.low, b.high, b.low);
    }

    template <int width>
    static __device__ __forceinline__ A rows(const Tile<Element, width>& tile, int row, int k) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        A a;
        for (int i = 0; i < 4; i++)
            split(*tile.at(row + g + i % 2 * 8, k + t + i / 2 * 4), a.high[i], a.low[i]);
        return a;
    }

    template <int width>
    static __device__ __forceinline__ void transposed(B (&b)[2], const Tile<Element, width>& tile,
                                                      int row, int k) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int i = 0; i < 4; i++)
            split(*tile.at(row + g + i / 2 * 8, k + t + i % 2 * 4), b[i / 2].high[i % 2],
                  b[i / 2].low[i % 2]);
    }

    // A lane has the sums of columns 2t and 2t + 1 and is to give t and t + 4 of its operand. Terms
    // of a sum may be taken in any order: `columns` takes the same.
    static __device__ __forceinline__ A from_sums(const float (*c)[4]) {
        A a;
        for (int i = 0; i < 4; i++) split(c[0][i / 2 + i % 2 * 2], a.high[i], a.low[i]);
        return a;
    }

    template <int width>
    static __device__ __forceinline__ void columns(B (&b)[2], const Tile<Element, width>& tile,
                                                   int k, int column) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        for (int i = 0; i < 4; i++)
            split(*tile.at(k + 2 * t + i % 2, column + g + i / 2 * 8), b[i / 2].high[i % 2],
                  b[i / 2].low[i % 2]);
    }
};

// c (16 M, 8 N) += a times the first 8 N rows of the tile, transposed; a(m, k) gives the operand of
// rows 16 m and columns k. `steps` of them at a time are in registers.
template <class P, int steps, int M, int N, int width, class Rows>
__device__ __forceinline__ void multiply_transposed(float (&c)[M][N][4], const Rows& a,
                                                    const Tile<typename P::Element, width>& tile) {
#pragma unroll steps
    for (int k = 0; k < width; k += P::depth) {
        typename P::A rows[M];
#pragma unroll
        for (int m = 0; m < M; m++) rows[m] = a(m, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            typename P::B b[2];
            P::transposed(b, tile, 8 * n, k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                P::multiply(c[m][n], rows[m], b[0]);
                P::multiply(c[m][n + 1], rows[m], b[1]);
            }
        }
    }
}

// c (16 M, width) += sums (16 M, 8 N) times the first 8 N rows of the tile.
template <class P, int M, int N, int width>
__device__ __forceinline__ void multiply_sums(float (&c)[M][width / 8][4],
                                              const float (&sums)[M][N][4],
                                              const Tile<typename P::Element, width>& tile) {
#pragma unroll
    for (int k = 0; k < 8 * N; k += P::depth) {
        typename P::A rows[M];
#pragma unroll
        for (int m = 0; m < M; m++) rows[m] = P::from_sums(&sums[m][k / 8]);
#pragma unroll
        for (int n = 0; n < width / 8; n += 2) {
            typename P::B b[2];
            P::columns(b, tile, k, 8 * n);
#pragma unroll
            for (int m = 0; m < M; m++) {
                P::multiply(c[m][n], rows[m], b[0]);
                P::multiply(c[m][n + 1], rows[m], b[1]);
            }
        }
    }
}

}  // namespace minillm::device
