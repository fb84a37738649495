#include "attention.h"

namespace minillm::device {
namespace {

constexpr int copy_threads = 256;

struct Task {
    Copies of[4];
    bool by_fours[4];  // rows can be read so
    int64_t batch, kv_heads;
    int* wild;
};

// Whether copies of x are infinite or no number: rounding takes the greatest ones to infinity.
__device__ __forceinline__ bool is_wild(float x) { return !(fabsf(x) < 1e38f); }

template <int N>
__device__ __forceinline__ void read(float (&x)[N], const float* from, int64_t count,
                                     bool by_fours) {
    if (by_fours && count >= N) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + i);
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = i < count ? from[i] : 0;
    }
}

__device__ __forceinline__ uint4 chunk_of(const float (&x)[8]) {
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                      pack_bf16(x[6], x[7]));
}
__device__ __forceinline__ uint4 chunk_of(const float (&x)[4]) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                      __float_as_uint(x[3]));
}

// A block has row_unit rows of one head of one array.
template <class P, int D>
__global__ void __launch_bounds__(copy_threads) copy_kernel(Task task) {
    constexpr int in_chunk = 16 / sizeof(typename P::Element), chunks = D / in_chunk;
    const Copies& array = task.of[blockIdx.z];
    const int64_t head = blockIdx.x, first = static_cast<int64_t>(blockIdx.y) * row_unit;
    if (head >= task.batch * array.heads || first >= array.rows) return;
    const int64_t batch = head / array.heads, of_batch = head % array.heads;
    const int64_t padded_rows = (array.rows + row_unit - 1) / row_unit * row_unit;
    uint4* to = static_cast<uint4*>(array.to) + (head * padded_rows + first) * chunks;
    bool wild = false;
    for (int i = threadIdx.x; i < row_unit * chunks; i += copy_threads) {
        const int64_t row = first + i / chunks;
        const int col = i % chunks * in_chunk;
        float x[in_chunk] = {};
        if (row < array.rows && col < array.d) {
            read(x, row_of(array.from, batch, of_batch, row) + col, array.d - col,
                 task.by_fours[blockIdx.z]);
#pragma unroll
            for (int j = 0; j < in_chunk; j++) {
                wild = wild || is_wild(x[j]);
                x[j] *= array.factor;
            }
        }
        to[i] = chunk_of(x);
    }
    if (wild)  // whichever thread it is, it writes the same
        task.wild[batch * task.kv_heads + of_batch / (array.heads / task.kv_heads)] = 1;
}

bool can_read_fours(const Copies& array) {
    const auto& from = array.from;
    return reinterpret_cast<uintptr_t>(from.data) % 16 == 0 && from.batch_stride % 4 == 0 &&
           from.head_stride % 4 == 0 && from.row_stride % 4 == 0;
}

}  // namespace

template <class P, int D>
void copy_heads(const Attention& a, const Copies (&arrays)[4], int* wild) {
    if (a.batch * a.kv_heads == 0) return;
    check(cudaMemsetAsync(wild, 0, sizeof(int) * a.batch * a.kv_heads, current_stream()),
          "clearing scratch memory");
    Task task{{}, {}, a.batch, a.kv_heads, wild};
    int64_t heads = 0, rows = 0;
    for (int i = 0; i < 4; i++) {
        task.of[i] = arrays[i];
        task.by_fours[i] = can_read_fours(arrays[i]);
        heads = std::max(heads, a.batch * arrays[i].heads);
        rows = std::max(rows, arrays[i].rows);
    }
    const dim3 grid(static_cast<unsigned>(heads), static_cast<unsigned>(padded(rows) / row_unit),
                    4);
    launch(copy_kernel<P, D>, grid, dim3(copy_threads), 0, task);
}

#define MINILLM_COPIES(P)                                                        \
    template void copy_heads<P, 32>(const Attention&, const Copies(&)[4], int*); \
    template void copy_heads<P, 64>(const Attention&, const Copies(&)[4], int*); \
    template void copy_heads<P, 128>(const Attention&, const Copies(&)[4], int*);
MINILLM_COPIES(Bf16)
MINILLM_COPIES(Tf32x3)
#undef MINILLM_COPIES

}  // namespace minillm::device
