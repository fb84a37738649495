// Attention forward without the matrix of all scores (Dao, "FlashAttention-2", 2023,
// arXiv:2307.08691): a warp keeps its queries, their running maxima, sums and results in registers
// while the keys and values go by in tiles. Weights never leave registers either: the sums of one
// product are laid out as an operand of the next.
#include "../precision.h"
#include "attention.h"

namespace minillm::device {
namespace {

template <class P, int D>
struct Shape {
    static constexpr bool half = sizeof(typename P::Element) == 2;
    static constexpr int M = half ? 2 : 1, warp_rows = 16 * M, rows = warps * warp_rows;
    static constexpr int keys = D < 128 ? 64 : 32;
    static constexpr bool keep = half && D <= 64;  // queries in registers
    static constexpr int steps = keep ? D / P::depth : D / 32;
    using T = Tile<typename P::Element, D>;
    static constexpr size_t shared = sizeof(typename P::Element) * (rows + 4 * keys) * T::stride;
};

// The lanes of a row are 4 neighbours.
__device__ __forceinline__ float maximum_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(all_lanes, x, 1));
    return fmaxf(x, __shfl_xor_sync(all_lanes, x, 2));
}
__device__ __forceinline__ float sum_of_row(float x) {
    x += __shfl_xor_sync(all_lanes, x, 1);
    return x + __shfl_xor_sync(all_lanes, x, 2);
}

// Of each 16 queries a lane has rows g and g + 8.
template <int M, int D>
struct Running {
    float result[M][D / 8][4], greatest[M][2], total[M][2];  // total: of the lane's columns

    __device__ __forceinline__ Running() {
#pragma unroll
        for (int m = 0; m < M; m++) {
            greatest[m][0] = greatest[m][1] = -INFINITY;
            total[m][0] = total[m][1] = 0;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                for (int i = 0; i < 4; i++) result[m][n][i] = 0;
        }
    }

    // Scores become weights under the maximum so far, and so does what was summed before.
    template <int N>
    __device__ __forceinline__ void weigh(float (&c)[M][N][4], float factor) {
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float before = greatest[m][half];
                float top = before;
#pragma unroll
                for (int n = 0; n < N; n++)
                    top = fmaxf(top, fmaxf(c[m][n][2 * half], c[m][n][2 * half + 1]));
                greatest[m][half] = top = maximum_of_row(top);
                const float shift = top == -INFINITY ? 0 : top * factor;
                const float correction = exp2_of(fmaf(before, factor, -shift));
                float fresh = 0;
#pragma unroll
                for (int n = 0; n < N; n++) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        c[m][n][i] = exp2_of(fmaf(c[m][n][i], factor, -shift));
                        fresh += c[m][n][i];
                    }
                }
                total[m][half] = fmaf(total[m][half], correction, fresh);
                if (!__any_sync(all_lanes, correction != 1)) continue;
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    result[m][n][2 * half] *= correction;
                    result[m][n][2 * half + 1] *= correction;
                }
            }
        }
    }
};

// Hides what queries from `row` on do not see of the keys from `key` on. An additive mask makes
// scores of the products.
template <int M, int N>
__device__ __forceinline__ void hide(float (&c)[M][N][4], const View& view, int row, int key,
                                     float factor) {
    replace(c, [&](int i, int j, float x) {
        if (view.a.mask.additive) x = fmaf(x, factor, view.bias_of_two(row + i, key + j));
        return view.sees(row + i, key + j) ? x : -INFINITY;
    });
}

template <class P, int D>
__global__ void __launch_bounds__(threads)
    forward_kernel(Attention a, Staged<typename P::Element> staged, float factor, Heads<float> out,
                   float* lse) {
    using S = Shape<P, D>;
    using T = typename S::T;
    using Element = typename P::Element;
    const Place place(a.heads, a.q_rows, S::rows);
    const int64_t pair = pair_of(a, place);
    if (staged.wild[pair]) return;
    const View view(a, place.batch, place.head);
    const T queries{dynamic_shared<Element>()};
    const auto keys_of = [&](int tile) {
        return T{queries.data + (S::rows + tile % 2 * 2 * S::keys) * T::stride};
    };
    const auto values_of = [&](int tile) {
        return T{queries.data + (S::rows + (tile % 2 * 2 + 1) * S::keys) * T::stride};
    };
    const auto fetch = [&](int tile) {
        const int64_t from = (pair * staged.k_padded + tile * S::keys) * D;
        copy_rows<threads>(keys_of(tile), staged.k + from, S::keys);
        copy_rows<threads>(values_of(tile), staged.v + from, S::keys);
    };
    copy_rows<threads>(queries, staged.q + (place.index * staged.q_padded + place.first) * D,
                       S::rows);
    commit_copies();
    typename P::A kept[S::keep ? S::M : 1][S::keep ? D / P::depth : 1];
    const int start = static_cast<int>(threadIdx.x) / warp_size * S::warp_rows;
    if constexpr (S::keep) {
        wait_for_copies<0>();
        __syncthreads();
#pragma unroll
        for (int m = 0; m < S::M; m++)
#pragma unroll
            for (int k = 0; k < D; k += P::depth)
                kept[m][k / P::depth] = P::rows(queries, start + 16 * m, k);
    }
    const auto operand = [&](int m, int k) {
        if constexpr (S::keep)
            return kept[m][k / P::depth];
        else
            return P::rows(queries, start + 16 * m, k);
    };
    Running<S::M, D> running;
    const int row = place.first + start;
    const int begin = view.first_key(place.first),
              end = view.end_of_keys(place.first + S::rows - 1);
    stream(begin / S::keys, (end + S::keys - 1) / S::keys, fetch, [&](int tile) {
        const int key = tile * S::keys;
        if (row >= a.q_rows || !view.sees_any(row, S::warp_rows, key, S::keys)) return;
        float c[S::M][S::keys / 8][4] = {};
        multiply_transposed<P, S::steps>(c, operand, keys_of(tile));
        if (!view.sees_all(row, S::warp_rows, key, S::keys)) hide(c, view, row, key, factor);
        running.weigh(c, a.mask.additive ? 1.f : factor);
        multiply_sums<P>(running.result, c, values_of(tile));
    });
    const float in_nats = a.mask.additive ? ln_2 : factor * ln_2;
    for (int m = 0; m < S::M; m++) {
        for (int half = 0; half < 2; half++) {
            float& total = running.total[m][half];
            total = sum_of_row(total);
            const int r = row + 16 * m + lane_index() / 4 + 8 * half;
            if (r < a.q_rows && lane_index() % 4 == 0)
                lse[(place.batch * a.heads + place.head) * a.q_rows + r] =
                    total == 0 ? -INFINITY : fmaf(running.greatest[m][half], in_nats, logf(total));
        }
    }
    write_rows(running.result, out, place.batch, place.head, row, a.q_rows, a.value_d,
               [&](int m, int half) {
                   const float total = running.total[m][half];
                   return total == 0 ? 0 : 1 / total;
               });
}

// Without the keys that no query sees.
Attention with_seen_keys(Attention a) {
    if (!a.causal) return a;
    const int64_t end = std::min(a.k_rows, a.offset + a.q_rows);
    const int64_t first =
        a.window ? std::min(end, std::max<int64_t>(0, a.offset - a.window + 1)) : 0;
    a.k.data += first * a.k.row_stride;
    a.v.data += first * a.v.row_stride;
    if (a.mask.additive) a.mask.additive += first * a.mask.col_stride;
    if (a.mask.allowed) a.mask.allowed += first * a.mask.col_stride;
    a.k_rows = end - first;
    a.offset -= first;
    return a;
}

}  // namespace

void attention_forward(const Attention& given, const Heads<float>& out, float* lse) {
    const Attention a = with_seen_keys(given);
    require_countable(a);
    if (few_queries(a)) return forward_of_few(a, out, lse);
    const int64_t widest = std::max(a.d, a.value_d);
    if (widest > widest_head) return plain_forward(a, out, lse, nullptr);
    with_kernels_for(widest, bf16_products(), [&](auto precision, auto size) {
        using P = decltype(precision);
        constexpr int D = decltype(size)::value;
        using S = Shape<P, D>;
        const ScoreScale scale(a.scale);
        const Stage<P, D> stage(a, scale.query, {});
        launch(forward_kernel<P, D>, grid_of(a, a.heads, a.q_rows, S::rows), dim3(threads),
               S::shared, a, stage.view(), scale.factor, out, lse);
        plain_forward(a, out, lse, stage.view().wild);
    });
}

}  // namespace minillm::device
