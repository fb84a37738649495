// Gradients of attention from scores that are computed again: with P = exp(S - lse) and delta =
// rowsum(grad out), dS = P (grad V^T - delta) (Dao et al., "FlashAttention", 2022). One kernel
// keeps keys and meets all queries, for dK and dV; another keeps queries and meets all keys, for
// dQ. So every sum is one warp's, in a fixed order, and as in the forward direction P and dS never
// leave registers; the price is that S and grad V^T are computed twice.
#include "../precision.h"
#include "attention.h"
#include "rows.h"

namespace minillm::device {
namespace {

// What a block keeps, and what goes by in tiles: queries by keys, or keys by queries.
template <class P, int D, bool of_queries>
struct Shape {
    static constexpr bool half = sizeof(typename P::Element) == 2;
    static constexpr int M = half && of_queries ? 2 : 1, warp_rows = 16 * M;
    static constexpr int rows = warps * warp_rows;
    // So that all of it fits into 99 KB, which is what a block has on cards of compute 8.6 and 8.9.
    static constexpr int passing = !half && D == 128 ? 16 : half && !of_queries ? 64 : 32;
    static constexpr int N = passing / 8;
    // How many of the two arrays of operands stay in registers.
    static constexpr int kept = !half || D > 64 ? 0 : of_queries && D == 64 ? 1 : 2;
    static constexpr int steps = kept ? D / P::depth : 1;
    using T = Tile<typename P::Element, D>;
    static constexpr size_t tiles =
        sizeof(typename P::Element) * (2 * rows + 4 * passing) * T::stride;
    static constexpr size_t shared = tiles + (of_queries ? 0 : 4 * passing * sizeof(float));
};

// The two arrays whose rows a warp keeps, as operands of products over D.
template <class P, int D, class S>
struct Kept {
    using T = typename S::T;
    T first, second;
    int start;
    typename P::A held[S::kept > 0 ? S::kept : 1][S::M]
                      [D / P::depth];  // of the first, then of both

    __device__ __forceinline__ Kept(typename P::Element* shared, const typename P::Element* from,
                                    const typename P::Element* other)
        : first{shared},
          second{shared + S::rows * T::stride},
          start(static_cast<int>(threadIdx.x) / warp_size * S::warp_rows) {
        copy_rows<threads>(first, from, S::rows);
        copy_rows<threads>(second, other, S::rows);
        commit_copies();
        if constexpr (S::kept > 0) {
            wait_for_copies<0>();
            __syncthreads();
#pragma unroll
            for (int which = 0; which < S::kept; which++) {
#pragma unroll
                for (int m = 0; m < S::M; m++) {
#pragma unroll
                    for (int k = 0; k < D; k += P::depth)
                        held[which][m][k / P::depth] =
                            P::rows(which ? second : first, start + 16 * m, k);
                }
            }
        }
    }
    template <int which>
    __device__ __forceinline__ typename P::A operand(int m, int k) const {
        if constexpr (which < S::kept)
            return held[which][m][k / P::depth];
        else
            return P::rows(which ? second : first, start + 16 * m, k);
    }
};

template <class P, int D>
__global__ void __launch_bounds__(threads)
    queries_kernel(Attention a, Staged<typename P::Element> staged, QueryRows of_rows, float factor,
                   Heads<float> dq) {
    using S = Shape<P, D, true>;
    using T = typename S::T;
    const Place place(a.heads, a.q_rows, S::rows);
    const int64_t pair = pair_of(a, place);
    if (staged.wild[pair]) return;
    const View view(a, place.batch, place.head);
    auto* shared = dynamic_shared<typename P::Element>();
    const int64_t first_row = place.index * staged.q_padded + place.first;
    const Kept<P, D, S> kept(shared, staged.q + first_row * D, staged.grad + first_row * D);
    const auto keys_of = [&](int tile) {
        return T{shared + (2 * S::rows + tile % 2 * 2 * S::passing) * T::stride};
    };
    const auto values_of = [&](int tile) {
        return T{shared + (2 * S::rows + (tile % 2 * 2 + 1) * S::passing) * T::stride};
    };
    const auto fetch = [&](int tile) {
        const int64_t from = (pair * staged.k_padded + tile * S::passing) * D;
        copy_rows<threads>(keys_of(tile), staged.k + from, S::passing);
        copy_rows<threads>(values_of(tile), staged.v + from, S::passing);
    };
    float sums[S::M][D / 8][4] = {};
    const int64_t own_row = first_row + kept.start + lane_index() / 4;
    const int row = place.first + kept.start;
    const int begin = view.first_key(place.first),
              end = view.end_of_keys(place.first + S::rows - 1);
    const float times = a.mask.additive ? 1.f : factor;
    stream(begin / S::passing, (end + S::passing - 1) / S::passing, fetch, [&](int tile) {
        const int key = tile * S::passing;
        if (row >= a.q_rows || !view.sees_any(row, S::warp_rows, key, S::passing)) return;
        float p[S::M][S::N][4] = {}, ds[S::M][S::N][4] = {};
        multiply_transposed<P, S::steps>(
            p, [&](int m, int k) { return kept.template operand<0>(m, k); }, keys_of(tile));
        multiply_transposed<P, S::steps>(
            ds, [&](int m, int k) { return kept.template operand<1>(m, k); }, values_of(tile));
        if (a.mask.additive)
            replace(p, [&](int r, int c, float x) {
                return fmaf(x, factor, view.bias_of_two(row + r, key + c));
            });
#pragma unroll
        for (int i = 0; i < 2 * S::M; i++) {
            // Read anew for each tile: there are no registers left to keep them in.
            const float lse = of_rows.lse[own_row + 8 * i], delta = of_rows.delta[own_row + 8 * i];
#pragma unroll
            for (int n = 0; n < S::N; n++) {
                for (int j = i % 2 * 2; j < i % 2 * 2 + 2; j++) {
                    const float weight = exp2_of(fmaf(p[i / 2][n][j], times, -lse));
                    ds[i / 2][n][j] = weight * (ds[i / 2][n][j] - delta);
                }
            }
        }
        if (!view.sees_all(row, S::warp_rows, key, S::passing))
            replace(ds, [&](int r, int c, float x) { return view.sees(row + r, key + c) ? x : 0; });
        multiply_sums<P>(sums, ds, keys_of(tile));
    });
    write_rows(sums, dq, place.batch, place.head, row, a.q_rows, a.d,
               [&](int, int) { return a.scale; });
}

template <class P, int D>
__global__ void __launch_bounds__(threads)
    keys_kernel(Attention a, Staged<typename P::Element> staged, QueryRows of_rows, float factor,
                float key_scale, Heads<float> dk, Heads<float> dv) {
    using S = Shape<P, D, false>;
    using T = typename S::T;
    const Place place(a.kv_heads, a.k_rows, S::rows);
    if (staged.wild[place.index]) return;
    auto* shared = dynamic_shared<typename P::Element>();
    auto* rows_shared = reinterpret_cast<float*>(dynamic_shared<unsigned char>() + S::tiles);
    const int64_t from_key = (place.index * staged.k_padded + place.first) * D;
    const Kept<P, D, S> kept(shared, staged.k + from_key, staged.v + from_key);
    const auto queries_of = [&](int turn) {
        return T{shared + (2 * S::rows + turn % 2 * 2 * S::passing) * T::stride};
    };
    const auto grads_of = [&](int turn) {
        return T{shared + (2 * S::rows + (turn % 2 * 2 + 1) * S::passing) * T::stride};
    };
    const auto lse_of = [&](int turn) { return rows_shared + turn % 2 * 2 * S::passing; };
    // The queries of all heads that share these keys, from the first that sees one of them.
    const int group = static_cast<int>(a.heads / a.kv_heads);
    const View any(a, 0, 0);
    const int first_tile = any.first_seeing(place.first) / S::passing;
    const int end_of_rows = any.end_of_seeing(place.first + S::rows - 1);
    const int tiles = max(0, (end_of_rows + S::passing - 1) / S::passing - first_tile);
    const auto row_of_turn = [&](int turn) { return (first_tile + turn % tiles) * S::passing; };
    const auto fetch = [&](int turn) {
        const int64_t from =
            (place.index * group + turn / tiles) * staged.q_padded + row_of_turn(turn);
        copy_rows<threads>(queries_of(turn), staged.q + from * D, S::passing);
        copy_rows<threads>(grads_of(turn), staged.grad + from * D, S::passing);
        const int i = threadIdx.x;
        if (i < S::passing / 4) copy_async(lse_of(turn) + 4 * i, of_rows.lse + from + 4 * i);
        if (i < S::passing / 4)
            copy_async(lse_of(turn) + S::passing + 4 * i, of_rows.delta + from + 4 * i);
    };
    const int t = lane_index() % 4;
    const int key = place.first + kept.start;
    const float times = a.mask.additive ? 1.f : factor;
    float key_sums[S::M][D / 8][4] = {}, value_sums[S::M][D / 8][4] = {};
    stream(0, group * tiles, fetch, [&](int turn) {
        const int row = row_of_turn(turn);
        const View view(a, place.batch, place.head * group + turn / tiles);
        if (key >= a.k_rows || !view.sees_any(row, S::passing, key, S::warp_rows)) return;
        const float *lse = lse_of(turn), *delta = lse + S::passing;
        float p[S::M][S::N][4] = {}, ds[S::M][S::N][4] = {};
        multiply_transposed<P, S::steps>(
            p, [&](int m, int k) { return kept.template operand<0>(m, k); }, queries_of(turn));
        if (a.mask.additive)
            replace(p, [&](int r, int c, float x) {
                return fmaf(x, factor, view.bias_of_two(row + c, key + r));
            });
#pragma unroll
        for (int m = 0; m < S::M; m++) {
#pragma unroll
            for (int n = 0; n < S::N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int col = 8 * n + 2 * t + i % 2;
                    p[m][n][i] = exp2_of(fmaf(p[m][n][i], times, -lse[col]));
                }
            }
        }
        if (!view.sees_all(row, S::passing, key, S::warp_rows))
            replace(p, [&](int r, int c, float x) { return view.sees(row + c, key + r) ? x : 0; });
        multiply_sums<P>(value_sums, p, grads_of(turn));
        multiply_transposed<P, S::steps>(
            ds, [&](int m, int k) { return kept.template operand<1>(m, k); }, grads_of(turn));
#pragma unroll
        for (int m = 0; m < S::M; m++) {
#pragma unroll
            for (int n = 0; n < S::N; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - delta[8 * n + 2 * t + i % 2]);
            }
        }
        multiply_sums<P>(key_sums, ds, queries_of(turn));
    });
    write_rows(key_sums, dk, place.batch, place.head, key, a.k_rows, a.d,
               [&](int, int) { return key_scale; });
    write_rows(value_sums, dv, place.batch, place.head, key, a.k_rows, a.value_d,
               [&](int, int) { return 1.f; });
}

// A warp for each row, up to `padded` of them a head.
__global__ void __launch_bounds__(threads)
    delta_kernel(Attention a, Heads<const float> grad, Heads<const float> out, const float* lse,
                 int64_t padded, float* row_lse, float* row_delta) {
    const int64_t index = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
    const int64_t head = index / padded, row = index % padded;
    if (head >= a.batch * a.heads) return;
    float delta = 0, found = -INFINITY;
    if (row < a.q_rows) {
        const float* x = row_of(grad, head / a.heads, head % a.heads, row);
        const float* y = row_of(out, head / a.heads, head % a.heads, row);
        for (int64_t f = lane_index(); f < a.value_d; f += warp_size)
            delta = fmaf(x[f], y[f], delta);
        delta = over_warp(delta, Sum());
        found = lse[head * a.q_rows + row];
    }
    if (lane_index() > 0) return;
    row_lse[index] = found == -INFINITY ? INFINITY : found * log2_e;
    row_delta[index] = delta;
}

}  // namespace

void attention_backward(const Attention& a, const Heads<const float>& grad,
                        const Heads<const float>& out, const float* lse, const Heads<float>& dq,
                        const Heads<float>& dk, const Heads<float>& dv) {
    require_countable(a);
    const int64_t rows = padded(a.q_rows), all = a.batch * a.heads * rows;
    const Scratch<float> row_lse(static_cast<size_t>(all)), delta(static_cast<size_t>(all));
    launch(delta_kernel, dim3(static_cast<unsigned>(divide_up(all, warps))), dim3(threads), 0, a,
           grad, out, lse, rows, row_lse.data(), delta.data());
    const int64_t widest = std::max(a.d, a.value_d);
    if (widest > widest_head)
        return plain_backward(a, grad, lse, delta.data(), rows, dq, dk, dv, nullptr);
    with_kernels_for(widest, bf16_products(), [&](auto precision, auto size) {
        using P = decltype(precision);
        constexpr int D = decltype(size)::value;
        using Queries = Shape<P, D, true>;
        using Keys = Shape<P, D, false>;
        const ScoreScale scale(a.scale);
        const Stage<P, D> stage(a, scale.query, grad);
        const QueryRows of_rows{row_lse.data(), delta.data()};
        launch(queries_kernel<P, D>, grid_of(a, a.heads, a.q_rows, Queries::rows), dim3(threads),
               Queries::shared, a, stage.view(), of_rows, scale.factor, dq);
        launch(keys_kernel<P, D>, grid_of(a, a.kv_heads, a.k_rows, Keys::rows), dim3(threads),
               Keys::shared, a, stage.view(), of_rows, scale.factor, scale.factor * ln_2, dk, dv);
        if (a.mask.gradient) mask_gradient<P, D>(a, stage.view(), of_rows, scale.factor);
        plain_backward(a, grad, lse, delta.data(), rows, dq, dk, dv, stage.view().wild);
    });
}

}  // namespace minillm::device
