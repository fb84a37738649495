// The innermost product: a few rows of A times a panel of B, its result held in registers.
#pragma once

#include "vec.h"

namespace minillm::MINILLM_ISA {

#if defined(__AVX512F__)
constexpr int MR = 12, NV = 2;  // 24 of 32 registers hold the result
#elif defined(__AVX2__)
constexpr int MR = 6, NV = 2;  // 12 of 16
#elif defined(__aarch64__)
constexpr int MR = 6, NV = 4;  // 24 of 32
#else
constexpr int MR = 4, NV = 2;
#endif
constexpr int NR = NV * W;  // columns of a panel

// A value whose origin the compiler may not see: else it derives addresses its own way, and runs
// out of registers.
template <class T>
INLINE T hidden(T value) {
    asm("" : "+r"(value));
    return value;
}

// c = start + a · b for one tile; each element adds its products in order of depth, whatever the
// shape of the tile, so a result does not depend on how the output was cut into tiles.
struct Tile {
    int64_t depth;
    const float* a;
    int64_t a_stride;  // between rows where rows are contiguous, else between columns
    const float* b;
    int64_t b_stride;  // between rows of b
    float* c;
    int64_t c_stride;
    const float* start;  // null: zero. A bias has start_stride 0; to accumulate, start at c
    int64_t start_stride;
};

// `packed`: rows of b are NR apart and, unless by_rows, columns of a are MR.
template <int M, int N, bool by_rows, bool packed>
static void multiply_tile(const Tile& tile) {
    vf acc[M][N] = {};
    constexpr int rows_together = 4;  // that share a pointer: x86 adds a multiple of one register
    constexpr int pointers = (M + rows_together - 1) / rows_together;
    const int64_t row = by_rows ? tile.a_stride : 1, row3 = hidden(3 * row);
    const int64_t step = by_rows ? 1 : packed ? MR : tile.a_stride;
    const int64_t b_step = packed ? NR : tile.b_stride;
    const float *a[pointers], *b = tile.b;
#pragma GCC unroll 4
    for (int p = 0; p < pointers; p++) a[p] = hidden(tile.a + p * rows_together * row);
#pragma GCC unroll 12
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) __builtin_prefetch(tile.c + i * tile.c_stride + j * W, 1);
    for (int64_t k = 0; k < tile.depth; k++, b += b_step) {
        vf columns[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) {
            columns[j] = load(b + j * W);
            __builtin_prefetch(b + 8 * b_step + j * W);
        }
#pragma GCC unroll 12
        for (int i = 0; i < M; i++) {
            const float* first = a[i / rows_together];
            const int place = i % rows_together;
            const vf factor =
                splat(by_rows ? first[place == 3 ? row3 : place * row] : first[place]);
#pragma GCC unroll 4
            for (int j = 0; j < N; j++) acc[i][j] += factor * columns[j];
        }
#pragma GCC unroll 4
        for (int p = 0; p < pointers; p++) a[p] += step;
    }
#pragma GCC unroll 12
    for (int i = 0; i < M; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) {
            if (tile.start) acc[i][j] += load(tile.start + i * tile.start_stride + j * W);
            store(tile.c + i * tile.c_stride + j * W, acc[i][j]);
        }
    }
}

}  // namespace minillm::MINILLM_ISA
