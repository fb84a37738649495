// The most that one thread can do with this instruction set: what the benchmarks compare with.
#include "amx.h"
#include "declare.h"
#include "vec.h"

namespace minillm::MINILLM_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int chains = 24;  // of 32 registers: enough to hide the latency of a multiply-add
#else
constexpr int chains = 12;  // of 16
#endif
constexpr int64_t inner = 64;  // steps of a round

}  // namespace

void peak_f32(int64_t rounds, float* numbers, double* flop) {
    const vf factor = splat(numbers[0]), term = splat(numbers[1]);
    vf chain[chains];
    for (int c = 0; c < chains; c++) chain[c] = splat(static_cast<float>(c));  // no two the same
    for (int64_t step = 0; step < rounds * inner; step++)
#pragma GCC unroll 24
        for (int c = 0; c < chains; c++) chain[c] = chain[c] * factor + term;
    vf total{};
    for (int c = 0; c < chains; c++) total += chain[c];
    numbers[0] = sum(total);
    *flop = 2.0 * W * chains * static_cast<double>(rounds * inner);
}

#if MINILLM_AMX
void peak_bf16(int64_t rounds, double* flop) {
    alignas(64) static const uint8_t zeros[tile_lines * 64] = {};
    const TileScope scope;
    MINILLM_TILE_ZERO(0);
    MINILLM_TILE_ZERO(1);
    MINILLM_TILE_ZERO(2);
    MINILLM_TILE_ZERO(3);
    MINILLM_TILE_LOAD(4, zeros, 64);
    MINILLM_TILE_LOAD(5, zeros, 64);
    MINILLM_TILE_LOAD(6, zeros, 64);
    MINILLM_TILE_LOAD(7, zeros, 64);
    for (int64_t step = 0; step < rounds * inner; step++) {
        MINILLM_TILE_PRODUCT(0, 4, 6);
        MINILLM_TILE_PRODUCT(1, 4, 7);
        MINILLM_TILE_PRODUCT(2, 5, 6);
        MINILLM_TILE_PRODUCT(3, 5, 7);
    }
    *flop = 2.0 * tile_lines * tile_lines * tile_depth * 4 * static_cast<double>(rounds * inner);
}
#else
void peak_bf16(int64_t, double* flop) { *flop = 0; }
#endif

// Four streams at once, as a row of a matrix product has them, keep more requests on their way.
void read_memory(const float* x, int64_t n, int64_t times, float* total) {
    constexpr int streams = 4, each = 4;
    const int64_t part = n / streams;
    vf sums[streams][each] = {};
    for (int64_t time = 0; time < times; time++) {
        for (int64_t i = 0; i + each * W <= part; i += each * W)
#pragma GCC unroll 4
            for (int s = 0; s < streams; s++)
#pragma GCC unroll 4
                for (int j = 0; j < each; j++) {
                    sums[s][j] += load(x + s * part + i + j * W);
                    __builtin_prefetch(x + s * part + i + j * W + 1024);
                }
        asm volatile("" : : : "memory");
    }
    vf all{};
    for (int s = 0; s < streams; s++)
        for (int j = 0; j < each; j++) all += sums[s][j];
    *total = sum(all);
}

void copy_memory(const float* x, int64_t n, int64_t times, float* out) {
    for (int64_t time = 0; time < times; time++) {
        over_vectors(0, n,
                     [&](int64_t i, auto lanes) { store(out + i, load(x + i, lanes), lanes); });
        asm volatile("" : : : "memory");
    }
}

}  // namespace minillm::MINILLM_ISA
