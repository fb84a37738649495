// A block for each head of each token. Eight threads share a key, so that a block reads 32 keys at
// once; the weights of all keys lie in shared memory between the two halves of the work.
#include <algorithm>

#include "few_queries.h"
#include "rows.h"

namespace minillm::device {
namespace {

constexpr int sharers = 8;
constexpr int keys_at_once = block_threads / sharers;

template <int W>
__device__ __forceinline__ float times(const Pack<W>& a, const Pack<W>& b) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < W; i++) sum += a.at[i] * b.at[i];
    return sum;
}

// scores[i] = q · key i, scaled. The threads of a warp stay together.
template <int W>
__device__ void score(const FewQueries& f, const float* q, const float* keys, int64_t count,
                      float* scores) {
    const int group = threadIdx.x / sharers, member = threadIdx.x % sharers;
#pragma unroll 4
    for (int64_t first = 0; first < count; first += keys_at_once) {
        const int64_t key = first + group;
        float sum = 0;
        if (key < count)
            for (int64_t col = member * W; col < f.d; col += sharers * W)
                sum += times(load<W>(keys + key * f.d + col), load<W>(q + col));
#pragma unroll
        for (int with = sharers / 2; with; with /= 2) sum += __shfl_xor_sync(all_lanes, sum, with);
        if (member == 0 && key < count) scores[key] = sum * f.scale;
    }
}

// out = the sum of the values, each times its weight; `parts` has W numbers for each thread.
template <int W>
__device__ void weigh(const FewQueries& f, const float* weights, const float* values, int64_t count,
                      float share, float* parts, float* out) {
    const int64_t wide = f.value_d / W;
    for (int64_t begin = 0; begin < wide; begin += block_threads) {
        const int64_t lanes = wide - begin < block_threads ? wide - begin : block_threads;
        const int64_t groups = block_threads / lanes;
        const int64_t group = threadIdx.x / lanes, col = (begin + threadIdx.x % lanes) * W;
        Pack<W> sum = {};
        if (group < groups) {
#pragma unroll 4
            for (int64_t key = group; key < count; key += groups) {
                const Pack<W> value = load<W>(values + key * f.value_d + col);
#pragma unroll
                for (int i = 0; i < W; i++) sum.at[i] += weights[key] * value.at[i];
            }
        }
        store(parts + threadIdx.x * W, sum);
        __syncthreads();
        if (threadIdx.x < lanes) {
            for (int64_t other = 1; other < groups; other++) {
                // Not by load, which reads global memory.
                const auto& more =
                    *reinterpret_cast<const Pack<W>*>(parts + (other * lanes + threadIdx.x) * W);
#pragma unroll
                for (int i = 0; i < W; i++) sum.at[i] += more.at[i];
            }
#pragma unroll
            for (int i = 0; i < W; i++) sum.at[i] *= share;
            store(out + col, sum);
        }
        __syncthreads();
    }
}

template <int W>
__global__ void __launch_bounds__(block_threads) few_queries(FewQueries f) {
    __shared__ float reduced[block_threads / warp_size];
    float* parts = dynamic_shared<float>();
    float* scores = parts + block_threads * W;
    const Team<block_threads> team{reduced};
    const int64_t head = blockIdx.x, row = blockIdx.y, kv_head = head / (f.heads / f.kv_heads);
    const int64_t end = f.last + row + 1;
    const int64_t begin = f.window && end > f.window ? end - f.window : 0, count = end - begin;
    const int64_t first = kv_head * f.capacity + begin;
    const float* q = f.q.data + row * f.q.row_stride + head * f.q.head_stride;
    float* out = f.out.data + row * f.out.row_stride + head * f.out.head_stride;
    score<W>(f, q, f.k + first * f.d, count, scores);
    __syncthreads();
    float greatest = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += block_threads)
        greatest = fmaxf(greatest, scores[i]);
    greatest = team.maximum(greatest);
    for (int64_t i = threadIdx.x; i < count; i += block_threads) {
        scores[i] = expf(scores[i] - greatest);
        sum += scores[i];
    }
    sum = team.sum(sum);  // whose barriers let the weights be seen
    weigh<W>(f, scores, f.v + first * f.value_d, count, 1 / sum, parts, out);
}

bool lies_by_fours(const FewQueries& f) {
    const int64_t sizes =
        f.d | f.value_d | f.q.row_stride | f.q.head_stride | f.out.row_stride | f.out.head_stride;
    return sizes % 4 == 0 && by_fours(4, {f.q.data, f.k, f.v, f.out.data});
}

}  // namespace

void attend_few(const FewQueries& f) {
    const int64_t seen = f.last + f.rows;
    const int64_t most = f.window && f.window < seen ? f.window : seen;
    const bool fours = lies_by_fours(f);
    const size_t shared = sizeof(float) * ((fours ? 4 : 1) * block_threads + most);
    const dim3 grid(static_cast<unsigned>(f.heads), static_cast<unsigned>(f.rows));
    launch(fours ? few_queries<4> : few_queries<1>, grid, block_threads, shared, f);
}

}  // namespace minillm::device
