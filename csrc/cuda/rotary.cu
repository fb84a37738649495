#include "kernels.h"
#include "rotary.h"
#include "rows.h"

namespace minillm::device {
namespace {

struct Angles {
    const float *cos, *sin;
    int64_t positions, half;
};

// Rows lie one after another, and so do their positions, over and over.
struct InARow {
    Angles angles;
    int64_t d;

    __device__ int64_t angle(int64_t row) const { return row % angles.positions; }
    __device__ int64_t from(int64_t row) const { return row * d; }
    __device__ int64_t to(int64_t row) const { return row * d; }
};

// The heads of tokens.
struct OfTokens {
    Angles angles;
    int64_t d, heads, from_stride, to_stride;
    Places places;

    __device__ int64_t angle(int64_t row) const { return places.position(row / heads); }
    __device__ int64_t from(int64_t row) const {
        return row / heads * from_stride + row % heads * d;
    }
    __device__ int64_t to(int64_t row) const { return row / heads * to_stride + row % heads * d; }
};

// A row of a block's lanes along x; packs of both halves, or of neighbours, turn together. They may
// be written where they were.
template <int W, bool interleaved, class Lies>
__global__ void __launch_bounds__(block_threads)
    rotary_kernel(const float* x, Lies lies, int64_t rows, float* out) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const Angles& angles = lies.angles;
    const int64_t half = angles.half, angle = lies.angle(row) * half;
    const float* from = x + lies.from(row);
    float* to = out + lies.to(row);
    for (int64_t i = threadIdx.x * W; i < half; i += blockDim.x * W) {
        const Pack<W> cos = load<W>(angles.cos + angle + i), sin = load<W>(angles.sin + angle + i);
        const int64_t first = interleaved ? 2 * i : i, second = interleaved ? first + W : i + half;
        float pair[2][W];  // as they lie in memory
        const Pack<W> low = own<W>(from + first), high = own<W>(from + second);
#pragma unroll
        for (int k = 0; k < W; k++) pair[0][k] = low.at[k], pair[1][k] = high.at[k];
        Pack<W> result[2];
#pragma unroll
        for (int k = 0; k < W; k++) {
            const int a = interleaved ? 2 * k : k, b = interleaved ? 2 * k + 1 : W + k;
            const float u = pair[a / W][a % W], v = pair[b / W][b % W];
            result[a / W].at[a % W] = u * cos.at[k] - v * sin.at[k];
            result[b / W].at[b % W] = v * cos.at[k] + u * sin.at[k];
        }
        store(to + first, result[0]);
        store(to + second, result[1]);
    }
    for (int64_t i = 2 * half + threadIdx.x; i < lies.d; i += blockDim.x) to[i] = from[i];
}

template <bool interleaved, class Lies>
void turn(const float* x, const Lies& lies, int64_t rows, bool fours, float* out) {
    const int64_t packs = lies.angles.half / (fours ? 4 : 1);
    unsigned lanes = 1;
    while (lanes < warp_size && lanes < packs) lanes *= 2;
    const unsigned together = block_threads / lanes;
    const dim3 grid(static_cast<unsigned>(divide_up(rows, together))), block(lanes, together);
    const auto kernel =
        fours ? rotary_kernel<4, interleaved, Lies> : rotary_kernel<1, interleaved, Lies>;
    launch(kernel, grid, block, 0, x, lies, rows, out);
}

}  // namespace

void rotary_forward(const float* x, const float* cos, const float* sin, int64_t rows,
                    int64_t positions, int64_t d, int64_t half, bool interleaved, float* out) {
    const bool fours = half % 4 == 0 && by_fours(d, {x, cos, sin, out});
    const InARow lies{{cos, sin, positions, half}, d};
    (interleaved ? turn<true, InARow> : turn<false, InARow>)(x, lies, rows, fours, out);
}

void turn_tokens(const TokenHeads& t, const float* cos, const float* sin, const Places& places) {
    const bool fours =
        (t.d / 2 | t.from_stride | t.to_stride) % 4 == 0 && by_fours(4, {t.from, cos, sin, t.to});
    const OfTokens lies{{cos, sin, 0, t.d / 2}, t.d, t.heads, t.from_stride, t.to_stride, places};
    turn<false>(t.from, lies, t.tokens * t.heads, fours, t.to);
}

}  // namespace minillm::device
