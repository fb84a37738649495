// The most that one thread can do with this instruction set: what the benchmarks compare with.
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

#if defined(__AMX_BF16__)
namespace {

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

}  // namespace

// The instructions themselves: what kernels set up for this thread is put back in the end.
void peak_bf16(int64_t rounds, double* flop) {
    alignas(64) static const uint8_t zeros[16 * 64] = {};
    const int64_t stride = 64;
    TileShapes before, shapes;
    for (int tile = 0; tile < 8; tile++) shapes.row_bytes[tile] = 64, shapes.rows[tile] = 16;
    asm volatile("sttilecfg %0" : "=m"(before));
    asm volatile("ldtilecfg %0" : : "m"(shapes));
    asm volatile("tilezero %tmm0\n tilezero %tmm1\n tilezero %tmm2\n tilezero %tmm3");
    asm volatile(
        "tileloadd (%0,%1,1), %%tmm4\n tileloadd (%0,%1,1), %%tmm5\n"
        "tileloadd (%0,%1,1), %%tmm6\n tileloadd (%0,%1,1), %%tmm7"
        :
        : "r"(zeros), "r"(stride), "m"(zeros));
    for (int64_t step = 0; step < rounds * inner; step++)
        asm volatile(
            "tdpbf16ps %tmm6, %tmm4, %tmm0\n tdpbf16ps %tmm7, %tmm4, %tmm1\n"
            "tdpbf16ps %tmm6, %tmm5, %tmm2\n tdpbf16ps %tmm7, %tmm5, %tmm3");
    asm volatile("ldtilecfg %0" : : "m"(before));
    *flop = 2.0 * 16 * 16 * 32 * 4 * static_cast<double>(rounds * inner);
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
