// A linear layer whose weight stays as the blocks of a file. Few rows, as decoding has them: each
// warp opens a few rows of the weight, a piece a lane, and all rows of x that are at hand meet it;
// the sum of a row of x is taken in the same order however many there are. With many rows the
// weight is opened part by part, and products of matrices do the rest.
#include "aligned_blocks.h"
#include "kernels.h"
#include "open_blocks.h"
#include "rows.h"

namespace minillm::device {
namespace {

constexpr int features = 4;          // of the result, a warp
constexpr int warps = 4;             // a block
constexpr int64_t opened = 1 << 22;  // numbers of a weight at once, for many rows

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

template <class Kind, int Rows>
void few_rows(const BlockProduct& p) {
    const dim3 blocks(static_cast<unsigned>(divide_up(p.m, warps * features)),
                      static_cast<unsigned>(divide_up(p.n, Rows)));
    launch(few_rows_kernel<Kind, Rows>, blocks, dim3(warps * warp_size), 0, p,
           by_fours(p.k, {p.x}));
}

template <class Kind>
void multiply_by(BlockProduct p) {
    const AlignedBlocks aligned(p.blocks, p.m * Kind::row_bytes(p.k), Kind::alignment);
    p.blocks = aligned.data();
    p.n == 1 ? few_rows<Kind, 1>(p) : few_rows<Kind, 4>(p);
}

void many_rows_of_numbers(const BlockProduct& p) {
    linear_forward(p.x, reinterpret_cast<const float*>(p.blocks), p.bias, p.residual, p.n, p.m, p.k,
                   p.out);
}

void many_rows_of_blocks(const BlockProduct& p) {
    const Factor x(p.x, p.n, p.k);
    const int64_t row_bytes = p.k / size_of_kind(p.kind).numbers * size_of_kind(p.kind).bytes;
    // Eights, so that parts of the result begin at multiples of 16 bytes where its rows do.
    const int64_t height = min(p.m, max(int64_t{8}, opened / max(int64_t{1}, p.k) / 8 * 8));
    const Room weight(height, p.k);
    for (int64_t first = 0; first < p.m; first += height) {
        const int64_t lines = min(height, p.m - first);
        open_blocks({p.kind, p.blocks + first * row_bytes, lines, p.k, nullptr, lines}, weight);
        multiply({p.n, lines, p.k, x, transposed(weight), p.out + first, p.m,
                  p.residual ? p.residual + first : nullptr, p.bias ? p.bias + first : nullptr});
    }
}

bool lies_as_numbers(const BlockProduct& p) {
    return p.kind == F32::kind && reinterpret_cast<uintptr_t>(p.blocks) % sizeof(float) == 0;
}

}  // namespace

void block_linear_forward(const BlockProduct* products, int64_t count) {
    for (const BlockProduct* p = products; p < products + count; p++) {
        if (p->n == 0 || p->m == 0) continue;
        if (p->n < many_rows)
            of_kind(p->kind, [&](auto kind) { multiply_by<decltype(kind)>(*p); });
        else if (lies_as_numbers(*p))
            many_rows_of_numbers(*p);
        else
            many_rows_of_blocks(*p);
    }
}

}  // namespace minillm::device
