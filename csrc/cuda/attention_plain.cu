// Attention by plain loops, a warp for each row: what a weight of 0 hides is not multiplied, so
// that numbers that are not finite are hidden as well.
#include "attention.h"
#include "rows.h"

namespace minillm::device {
namespace {

// The pair of batch and key head that a block works for, and its share of the rows.
struct Pair {
    int64_t index, batch, kv_head, group;

    __device__ explicit Pair(const Attention& a) : Pair(a, blockIdx.x) {}
    __device__ Pair(const Attention& a, int64_t index)
        : index(index),
          batch(index / a.kv_heads),
          kv_head(index % a.kv_heads),
          group(a.heads / a.kv_heads) {}

    // body(head, row) by a warp for each of `rows` rows of `heads` heads from `first` on.
    template <class Body>
    __device__ void each_row(int64_t first, int64_t heads, int64_t rows, const Body& body) const {
        const int64_t step = static_cast<int64_t>(gridDim.y) * warps;
        int64_t i = static_cast<int64_t>(blockIdx.y) * warps + threadIdx.x / warp_size;
        for (; i < heads * rows; i += step) body(first + i / rows, static_cast<int>(i % rows));
    }
    template <class Body>
    __device__ void each_query(const Attention& a, const Body& body) const {
        each_row(kv_head * group, group, a.q_rows, body);
    }
};

__device__ float dot(const float* x, const float* y, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum = fmaf(x[i], y[i], sum);
    return sum;
}

__device__ float score(const Attention& a, const View& view, const float* query, const float* key,
                       int row, int col) {
    return dot(query, key, a.d) * a.scale + view.bias(row, col);
}

// to[f] += the sum over the lanes' rows of weight times row[f]; row(lane) is the row's start.
template <class Rows>
__device__ void add_weighted(float* to, int64_t width, float weight, const Rows& row) {
    const int lane = lane_index();
    for (int64_t first = 0; first < width; first += warp_size) {
        const bool mine = first + lane < width;
        float sum = 0;
        for (int j = 0; j < warp_size; j++) {
            const float w = __shfl_sync(all_lanes, weight, j);
            if (w != 0 && mine) sum = fmaf(w, row(j)[first + lane], sum);
        }
        if (mine) to[first + lane] += sum;
    }
}

__device__ void fill(float* to, int64_t width, float value) {
    for (int64_t f = lane_index(); f < width; f += warp_size) to[f] = value;
}
__device__ void multiply(float* to, int64_t width, float factor) {
    for (int64_t f = lane_index(); f < width; f += warp_size) to[f] *= factor;
}

__device__ void find_result(const Attention& a, const Pair& pair, const Heads<float>& out,
                            float* lse, int64_t head, int row) {
    const View view(a, pair.batch, head);
    const int lane = lane_index(), end = view.end_of_keys(row);
    const float* query = row_of(a.q, pair.batch, head, row);
    const auto score_of = [&](int key) {
        if (!view.sees(row, key)) return -INFINITY;
        return score(a, view, query, row_of(a.k, pair.batch, pair.kv_head, key), row, key);
    };
    float greatest = -INFINITY;
    const int begin = view.first_key(row);
    for (int key = begin + lane; key < end; key += warp_size)
        greatest = fmaxf(greatest, score_of(key));
    greatest = over_warp(greatest, Maximum());
    const float shift = greatest == -INFINITY ? 0 : greatest;
    float* result = row_of(out, pair.batch, head, row);
    fill(result, a.value_d, 0);
    float total = 0;
    for (int first = begin; first < end; first += warp_size) {
        const float weight = first + lane < end ? expf(score_of(first + lane) - shift) : 0;
        total += weight;
        add_weighted(result, a.value_d, weight,
                     [&](int j) { return row_of(a.v, pair.batch, pair.kv_head, first + j); });
    }
    total = over_warp(total, Sum());
    multiply(result, a.value_d, total == 0 ? 0 : 1 / total);
    if (lane == 0)
        lse[(pair.batch * a.heads + head) * a.q_rows + row] =
            total == 0 ? -INFINITY : greatest + logf(total);
}

__global__ void __launch_bounds__(threads)
    forward_kernel(Attention a, Heads<float> out, float* lse, const int* wild) {
    const Pair pair(a);
    if (wild && !wild[pair.index]) return;
    pair.each_query(a, [&](int64_t head, int row) { find_result(a, pair, out, lse, head, row); });
}

// What the gradients start from.
struct Upstream {
    Heads<const float> grad;
    const float *lse, *delta;
    int64_t delta_rows;
};

// The weight of a query for a key, and the gradient of its score.
struct Weight {
    float p = 0, ds = 0;

    __device__ Weight(const Attention& a, const Upstream& up, const Pair& pair, const View& view,
                      int64_t head, int row, int key) {
        if (!view.sees(row, key)) return;  // or there is no such query or key
        const int64_t place = pair.batch * a.heads + head;
        const float lse = up.lse[place * a.q_rows + row];
        if (lse == -INFINITY) return;
        const float* query = row_of(a.q, pair.batch, head, row);
        p = expf(score(a, view, query, row_of(a.k, pair.batch, pair.kv_head, key), row, key) - lse);
        if (p == 0) return;
        const float dp = dot(row_of(up.grad, pair.batch, head, row),
                             row_of(a.v, pair.batch, pair.kv_head, key), a.value_d);
        ds = p * (dp - up.delta[place * up.delta_rows + row]);
    }
};

__global__ void __launch_bounds__(threads)
    queries_kernel(Attention a, Upstream up, Heads<float> dq, const int* wild) {
    const Pair pair(a);
    if (wild && !wild[pair.index]) return;
    pair.each_query(a, [&](int64_t head, int row) {
        const View view(a, pair.batch, head);
        const int end = view.end_of_keys(row);
        float* result = row_of(dq, pair.batch, head, row);
        fill(result, a.d, 0);
        for (int first = view.first_key(row); first < end; first += warp_size) {
            const Weight weight(a, up, pair, view, head, row, first + lane_index());
            add_weighted(result, a.d, weight.ds * a.scale,
                         [&](int j) { return row_of(a.k, pair.batch, pair.kv_head, first + j); });
        }
    });
}

__device__ void find_key(const Attention& a, const Upstream& up, const Pair& pair, int key,
                         float* dk, float* dv) {
    fill(dk, a.d, 0);
    fill(dv, a.value_d, 0);
    for (int64_t head = pair.kv_head * pair.group; head < (pair.kv_head + 1) * pair.group; head++) {
        const View view(a, pair.batch, head);
        const int end = view.end_of_seeing(key);
        for (int first = view.first_seeing(key); first < end; first += warp_size) {
            const Weight weight(a, up, pair, view, head, first + lane_index(), key);
            add_weighted(dv, a.value_d, weight.p,
                         [&](int j) { return row_of(up.grad, pair.batch, head, first + j); });
            add_weighted(dk, a.d, weight.ds * a.scale,
                         [&](int j) { return row_of(a.q, pair.batch, head, first + j); });
        }
    }
}

__global__ void __launch_bounds__(threads)
    keys_kernel(Attention a, Upstream up, Heads<float> dk, Heads<float> dv, const int* wild) {
    const Pair pair(a);
    if (wild && !wild[pair.index]) return;
    pair.each_row(pair.kv_head, 1, a.k_rows, [&](int64_t head, int key) {
        find_key(a, up, pair, key, row_of(dk, pair.batch, head, key),
                 row_of(dv, pair.batch, head, key));
    });
}

// A thread for each place of the mask's gradient; blocks share out those of a matrix.
__global__ void __launch_bounds__(threads) mask_kernel(Attention a, Upstream up, const int* wild) {
    const Sharers sharers(a, blockIdx.x);
    if (wild && !sharers.any(a, wild)) return;
    const int64_t places = a.q_rows * a.k_rows, step = static_cast<int64_t>(gridDim.y) * threads;
    int64_t i = static_cast<int64_t>(blockIdx.y) * threads + threadIdx.x;
    for (; i < places; i += step) {
        const int row = static_cast<int>(i / a.k_rows), key = static_cast<int>(i % a.k_rows);
        float sum = 0;
        for (int turn = 0; turn < sharers.count(); turn++) {
            const int64_t batch = sharers.batch_of(turn), head = sharers.head_of(turn);
            const Pair pair(a, batch * a.kv_heads + head / (a.heads / a.kv_heads));
            sum += Weight(a, up, pair, View(a, batch, head), head, row, key).ds;
        }
        a.mask.gradient[blockIdx.x * places + i] = sum;
    }
}

// Where few pairs are expected to need it, few blocks have a look.
dim3 grid_of(const Attention& a, int64_t rows, bool rare) {
    return dim3(
        static_cast<unsigned>(a.batch * a.kv_heads),
        static_cast<unsigned>(std::min<int64_t>(divide_up(rows, warps), rare ? 16 : 65535)));
}

}  // namespace

void plain_forward(const Attention& a, const Heads<float>& out, float* lse, const int* wild) {
    const int64_t rows = a.heads / a.kv_heads * a.q_rows;
    launch(forward_kernel, grid_of(a, rows, wild), dim3(threads), 0, a, out, lse, wild);
}

void plain_backward(const Attention& a, const Heads<const float>& grad, const float* lse,
                    const float* delta, int64_t delta_rows, const Heads<float>& dq,
                    const Heads<float>& dk, const Heads<float>& dv, const int* wild) {
    const Upstream up{grad, lse, delta, delta_rows};
    const int64_t rows = a.heads / a.kv_heads * a.q_rows;
    launch(queries_kernel, grid_of(a, rows, wild), dim3(threads), 0, a, up, dq, wild);
    launch(keys_kernel, grid_of(a, a.k_rows, wild), dim3(threads), 0, a, up, dk, dv, wild);
    if (!a.mask.gradient) return;
    const int64_t blocks = divide_up(a.q_rows * a.k_rows, threads);
    const dim3 grid(static_cast<unsigned>(a.mask.gradient_batch * a.mask.gradient_heads),
                    static_cast<unsigned>(std::min<int64_t>(blocks, wild ? 16 : 65535)));
    launch(mask_kernel, grid, dim3(threads), 0, a, up, wild);
}

}  // namespace minillm::device
