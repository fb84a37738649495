#include "kernels.h"
#include "rows.h"

namespace minillm::device {
namespace {

struct Angles {
    const float *cos, *sin;
    int64_t positions, half;
};

// A row of a block's lanes along x; packs of both halves, or of neighbours, turn together.
template <int W, bool interleaved>
__global__ void __launch_bounds__(block_threads)
    rotary_kernel(const float* x, Angles angles, int64_t rows, int64_t d, float* out) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const int64_t half = angles.half, angle = row % angles.positions * half;
    const float* from = x + row * d;
    float* to = out + row * d;
    for (int64_t i = threadIdx.x * W; i < half; i += blockDim.x * W) {
        const Pack<W> cos = load<W>(angles.cos + angle + i), sin = load<W>(angles.sin + angle + i);
        const int64_t first = interleaved ? 2 * i : i, second = interleaved ? first + W : i + half;
        float pair[2][W];  // as they lie in memory
        const Pack<W> low = load<W>(from + first), high = load<W>(from + second);
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
    for (int64_t i = 2 * half + threadIdx.x; i < d; i += blockDim.x) to[i] = from[i];
}

}  // namespace

void rotary_forward(const float* x, const float* cos, const float* sin, int64_t rows,
                    int64_t positions, int64_t d, int64_t half, bool interleaved, float* out) {
    const bool fours = half % 4 == 0 && by_fours(d, {x, cos, sin, out});
    unsigned lanes = 1;
    while (lanes < warp_size && lanes < half / (fours ? 4 : 1)) lanes *= 2;
    const unsigned together = block_threads / lanes;
    const Angles angles{cos, sin, positions, half};
    const dim3 grid(static_cast<unsigned>(divide_up(rows, together))), block(lanes, together);
    const auto kernel = fours ? (interleaved ? rotary_kernel<4, true> : rotary_kernel<4, false>)
                              : (interleaved ? rotary_kernel<1, true> : rotary_kernel<1, false>);
    launch(kernel, grid, block, 0, x, angles, rows, d, out);
}

}  // namespace minillm::device
