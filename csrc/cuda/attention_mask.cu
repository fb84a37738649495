// The gradient of what a mask adds to the scores: dS = P (grad V^T - delta), summed over the heads
// that share the mask, as T5's bias is shared by a batch. A block has a tile of one matrix and
// meets these heads one after the other, so every sum is one lane's, in a fixed order.
#include "attention.h"

namespace minillm::device {
namespace {

template <class P, int D>
struct Shape {
    static constexpr int M = 1, rows = 16 * warps, bytes = D * sizeof(typename P::Element);
    // So that all of it fits into 99 KB, which is what a block has on cards of compute 8.6 and 8.9.
    static constexpr int keys = bytes <= 128 ? 64 : bytes == 256 ? 32 : 16, N = keys / 8;
    static constexpr int room = bytes == 512 ? 1 : 2;  // heads
    using T = Tile<typename P::Element, D>;
    static constexpr int tiles = 2 * (rows + keys) * T::stride;  // elements of a head's
    static constexpr size_t shared = sizeof(typename P::Element) * room * tiles;
};

// The tiles of one head.
template <class S>
struct Tiles {
    typename S::T queries, grads, keys, values;

    template <class Element>
    __device__ explicit Tiles(Element* shared)
        : queries{shared},
          grads{shared + S::rows * S::T::stride},
          keys{shared + 2 * S::rows * S::T::stride},
          values{shared + (2 * S::rows + S::keys) * S::T::stride} {}
};

template <class P, int D>
__global__ void __launch_bounds__(threads)
    mask_kernel(Attention a, Staged<typename P::Element> staged, QueryRows of_rows, float factor) {
    using S = Shape<P, D>;
    const int64_t key_tiles = (a.k_rows + S::keys - 1) / S::keys;
    const int64_t row_tiles = (a.q_rows + S::rows - 1) / S::rows;
    const int64_t tile = blockIdx.x % (row_tiles * key_tiles);
    const int64_t matrix = blockIdx.x / (row_tiles * key_tiles);
    const Sharers sharers(a, matrix);
    if (sharers.any(a, staged.wild)) return;
    const int first = static_cast<int>(tile / key_tiles) * S::rows;
    const int key = static_cast<int>(tile % key_tiles) * S::keys;
    const int start = static_cast<int>(threadIdx.x) / warp_size * 16, row = first + start;
    const int group = static_cast<int>(a.heads / a.kv_heads);
    const auto tiles_of = [&](int turn) {
        return Tiles<S>(dynamic_shared<typename P::Element>() + turn % S::room * S::tiles);
    };
    const auto first_row_of = [&](int turn) {
        return (sharers.batch_of(turn) * a.heads + sharers.head_of(turn)) * staged.q_padded + first;
    };
    const auto fetch = [&](int turn) {
        const Tiles<S> to = tiles_of(turn);
        const int64_t pair = sharers.batch_of(turn) * a.kv_heads + sharers.head_of(turn) / group;
        const int64_t from_row = first_row_of(turn) * D;
        const int64_t from_key = (pair * staged.k_padded + key) * D;
        copy_rows<threads>(to.queries, staged.q + from_row, S::rows);
        copy_rows<threads>(to.grads, staged.grad + from_row, S::rows);
        copy_rows<threads>(to.keys, staged.k + from_key, S::keys);
        copy_rows<threads>(to.values, staged.v + from_key, S::keys);
    };
    const bool any = View(a, 0, 0).sees_any(first, S::rows, key, S::keys);
    float sums[S::M][S::N][4] = {};
    stream<S::room>(0, any ? sharers.count() : 0, fetch, [&](int turn) {
        const View view(a, sharers.batch_of(turn), sharers.head_of(turn));
        if (row >= a.q_rows) return;
        const Tiles<S> at = tiles_of(turn);
        float p[S::M][S::N][4] = {}, ds[S::M][S::N][4] = {};
        multiply_transposed<P, 2>(
            p, [&](int, int k) { return P::rows(at.queries, start, k); }, at.keys);
        multiply_transposed<P, 2>(
            ds, [&](int, int k) { return P::rows(at.grads, start, k); }, at.values);
        const int64_t own_row = first_row_of(turn) + start;
        replace(p, [&](int r, int c, float x) {
            const float score = fmaf(x, factor, view.bias_of_two(row + r, key + c));
            return view.sees(row + r, key + c) ? exp2_of(score - of_rows.lse[own_row + r]) : 0;
        });
        const int g = lane_index() / 4;
#pragma unroll
        for (int n = 0; n < S::N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                sums[0][n][i] +=
                    p[0][n][i] * (ds[0][n][i] - of_rows.delta[own_row + g + i / 2 * 8]);
        }
    });
    float* to = a.mask.gradient + matrix * a.q_rows * a.k_rows;
    replace(sums, [&](int r, int c, float x) {
        if (row + r < a.q_rows && key + c < a.k_rows) to[(row + r) * a.k_rows + key + c] = x;
        return x;
    });
}

}  // namespace

template <class P, int D>
void mask_gradient(const Attention& a, const Staged<typename P::Element>& staged,
                   const QueryRows& of_rows, float factor) {
    using S = Shape<P, D>;
    const int64_t tiles = divide_up(a.q_rows, S::rows) * divide_up(a.k_rows, S::keys);
    const int64_t blocks = tiles * a.mask.gradient_batch * a.mask.gradient_heads;
    launch(mask_kernel<P, D>, dim3(static_cast<unsigned>(blocks)), dim3(threads), S::shared, a,
           staged, of_rows, factor);
}

#define MINILLM_MASKS(P)                                                             \
    template void mask_gradient<P, 32>(const Attention&, const Staged<P::Element>&,  \
                                       const QueryRows&, float);                     \
    template void mask_gradient<P, 64>(const Attention&, const Staged<P::Element>&,  \
                                       const QueryRows&, float);                     \
    template void mask_gradient<P, 128>(const Attention&, const Staged<P::Element>&, \
                                        const QueryRows&, float);
MINILLM_MASKS(Bf16)
MINILLM_MASKS(Tf32x3)
#undef MINILLM_MASKS

}  // namespace minillm::device
