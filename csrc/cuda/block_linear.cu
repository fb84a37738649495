// A linear layer whose weight stays as the blocks of a file. Few rows, as decoding has them: each
// warp opens a few rows of the weight, a piece a lane, and all rows of x that are at hand meet it;
// the sum of a row of x is taken in the same order however many there are. With many rows the
// weight is opened once, and a product of matrices does the rest.
#include "blocks.h"
#include "kernels.h"
#include "rows.h"

namespace minillm::device {
namespace {

constexpr int features = 4;  // of the result, a warp
constexpr int warps = 4;     // a block

// Four numbers of x, those at `left` and after being 0.
__device__ __forceinline__ Pack<4> four_of(const float* from, int64_t left, bool aligned) {
    if (aligned && left >= 4) return load<4>(from);
    Pack<4> pack;
#pragma unroll
    for (int i = 0; i < 4; i++) pack.at[i] = i < left ? __ldg(from + i) : 0;
    return pack;
}

__device__ __forceinline__ float sum_of(const float* a) { return (a[0] + a[1]) + (a[2] + a[3]); }

__device__ __forceinline__ float dot(const float* a, const float* b) {
    float sum = a[0] * b[0];
#pragma unroll
    for (int i = 1; i < 4; i++) sum += a[i] * b[i];
    return sum;
}

template <class Kind, int Rows>
__global__ void __launch_bounds__(warps* warp_size) few_rows_kernel(BlockProduct p, bool aligned) {
    const int lane = threadIdx.x % warp_size, piece = lane % Kind::pieces;
    const int64_t first =
        (static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size) * features;
    if (first >= p.m) return;  // the whole warp
    const int64_t top = static_cast<int64_t>(blockIdx.y) * Rows, bytes = Kind::row_bytes(p.k);
    float sums[features][Rows] = {};
    for (int64_t b = lane / Kind::pieces; b * Kind::numbers < p.k; b += warp_size / Kind::pieces) {
        const int64_t left = p.k - b * Kind::numbers;
        Pack<4> x[Rows][2];
#pragma unroll
        for (int row = 0; row < Rows; row++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int start = Kind::start(piece, half);
                const int64_t from = min(top + row, p.n - 1) * p.k + b * Kind::numbers + start;
                x[row][half] = four_of(p.x + from, left - start, aligned);
            }
#pragma unroll
        for (int f = 0; f < features; f++) {
            const uint8_t* row_of = p.blocks + min(first + f, p.m - 1) * bytes;
            const Piece w = Kind::open(row_of + b * Kind::bytes, piece, left);
#pragma unroll
            for (int row = 0; row < Rows; row++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float* numbers = x[row][half].at;
                    sums[f][row] += w.d[half] * dot(w.numbers[half], numbers);
                    sums[f][row] += w.m[half] * sum_of(numbers);
                }
        }
    }
#pragma unroll
    for (int f = 0; f < features; f++)
#pragma unroll
        for (int row = 0; row < Rows; row++) {
            float sum = over_warp(sums[f][row], Sum());
            const int64_t i = top + row, feature = first + f;
            if (lane > 0 || i >= p.n || feature >= p.m) continue;
            if (p.bias) sum += p.bias[feature];
            if (p.residual) sum += p.residual[i * p.m + feature];
            p.out[i * p.m + feature] = sum;
        }
}

// The weight in float32, a piece a thread.
template <class Kind>
__global__ void __launch_bounds__(block_threads)
    open_kernel(const uint8_t* blocks, int64_t m, int64_t k, float* out) {
    const int64_t pieces = divide_up(k, Kind::numbers) * Kind::pieces;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    const int64_t row = i / pieces, b = i % pieces / Kind::pieces;
    if (row >= m) return;
    const int piece = static_cast<int>(i % Kind::pieces);
    const int64_t left = k - b * Kind::numbers;
    const uint8_t* block = blocks + row * Kind::row_bytes(k) + b * Kind::bytes;
    const Piece w = Kind::open(block, piece, left);
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int64_t at = Kind::start(piece, half) + j;
            if (at < left)
                out[row * k + b * Kind::numbers + at] = w.d[half] * w.numbers[half][j] + w.m[half];
        }
}

template <class Kind, int Rows>
void few_rows(const BlockProduct& p) {
    const dim3 blocks(static_cast<unsigned>(divide_up(p.m, warps * features)),
                      static_cast<unsigned>(divide_up(p.n, Rows)));
    launch(few_rows_kernel<Kind, Rows>, blocks, dim3(warps * warp_size), 0, p,
           by_fours(p.k, {p.x}));
}

template <class Kind>
void multiply_by(BlockProduct p) {
    const int64_t bytes = p.m * Kind::row_bytes(p.k);
    const bool aligned = reinterpret_cast<uintptr_t>(p.blocks) % Kind::alignment == 0;
    const Scratch<uint8_t> copy(aligned ? 0 : bytes);
    if (!aligned) {
        check(cudaMemcpyAsync(copy.data(), p.blocks, bytes, cudaMemcpyDeviceToDevice,
                              current_stream()),
              "block_linear_forward");
        p.blocks = copy.data();
    }
    if (p.n < many_rows) return p.n == 1 ? few_rows<Kind, 1>(p) : few_rows<Kind, 4>(p);
    const Scratch<float> weight(p.m * p.k);
    const int64_t pieces = p.m * divide_up(p.k, Kind::numbers) * Kind::pieces;
    launch(open_kernel<Kind>, dim3(static_cast<unsigned>(divide_up(pieces, block_threads))),
           dim3(block_threads), 0, p.blocks, p.m, p.k, weight.data());
    linear_forward(p.x, weight.data(), p.bias, p.residual, p.n, p.m, p.k, p.out);
}

template <class... Kinds>
void multiply_kind(const BlockProduct& p) {
    const bool known = ((p.kind == Kinds::kind && (multiply_by<Kinds>(p), true)) || ...);
    if (!known) throw std::invalid_argument("block_linear_forward: blocks without a kernel");
}

}  // namespace

void block_linear_forward(const BlockProduct* products, int64_t count) {
    for (const BlockProduct* p = products; p < products + count; p++)
        if (p->n > 0 && p->m > 0)
            multiply_kind<F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K>(*p);
}

}  // namespace minillm::device
