// Attention of few queries to many keys, as in decoding: it takes as long as reading keys and
// values does, so these are read once, where they lie, by as many blocks as there are splits of
// them. Each gives results under its own maximum; another kernel puts them together, in order.
#include "attention.h"
#include "rows.h"

namespace minillm::device {
namespace {

constexpr int most_rows = 8;  // of a block: queries of all heads that share the keys
constexpr int at_once = 4;    // keys that a warp reads at once
constexpr int64_t most_d = 256;

// Of the keys, as k_rows alone says: the sums have the same order whatever the device.
struct Splits {
    int keys, count;
    explicit Splits(int64_t k_rows) {
        const int64_t wanted = divide_up(divide_up(k_rows, 128), 64) * 64;
        keys = static_cast<int>(std::min<int64_t>(512, std::max<int64_t>(64, wanted)));
        count = static_cast<int>(divide_up(k_rows, keys));
    }
};

// What the splits give: for each row of queries its maxima, sums and results of all splits.
struct Partial {
    float *greatest, *total, *result;
};

// The queries of a block: row r of it is query `row(r)` of head `head(r)`.
struct Queries {
    const Attention& a;
    const int group, batch, kv_head, first, count;

    __device__ explicit Queries(const Attention& a)
        : a(a),
          group(static_cast<int>(a.heads / a.kv_heads)),
          batch(static_cast<int>(blockIdx.x / a.kv_heads)),
          kv_head(static_cast<int>(blockIdx.x % a.kv_heads)),
          first(static_cast<int>(blockIdx.y) * most_rows),
          count(min(most_rows, group * static_cast<int>(a.q_rows) - first)) {}

    __device__ int head(int r) const {
        return kv_head * group + (first + r) / static_cast<int>(a.q_rows);
    }
    __device__ int row(int r) const { return (first + r) % static_cast<int>(a.q_rows); }
    __device__ int64_t index(int r) const {  // among all rows of all heads
        return (batch * a.heads + head(r)) * a.q_rows + row(r);
    }
};

// Scores (count, keys) of the block's queries and the keys of its split, a warp for each key.
__device__ void find_scores(const Attention& a, const Queries& queries, const float* q,
                            int first_key, int keys, float* scores) {
    const int lane = lane_index(), d = static_cast<int>(a.d);
    for (int key = threadIdx.x / warp_size * at_once; key < keys; key += warps * at_once) {
        float sums[at_once][most_rows] = {};
        for (int f = lane; f < d; f += warp_size) {
            float x[at_once];
#pragma unroll
            for (int i = 0; i < at_once; i++)
                x[i] = row_of(a.k, queries.batch, queries.kv_head,
                              first_key + min(key + i, keys - 1))[f];
#pragma unroll
            for (int r = 0; r < most_rows; r++) {
                if (r >= queries.count) break;
                const float y = q[r * d + f];
#pragma unroll
                for (int i = 0; i < at_once; i++) sums[i][r] = fmaf(x[i], y, sums[i][r]);
            }
        }
#pragma unroll
        for (int r = 0; r < most_rows; r++) {
            if (r >= queries.count) break;
            const View view(a, queries.batch, queries.head(r));
#pragma unroll
            for (int i = 0; i < at_once; i++) {
                const float product = over_warp(sums[i][r], Sum());
                const int at = first_key + key + i;
                if (lane == 0 && key + i < keys)
                    scores[r * keys + key + i] =
                        view.sees(queries.row(r), at)
                            ? product * a.scale + view.bias(queries.row(r), at)
                            : -INFINITY;
            }
        }
    }
}

// Scores become weights under each row's maximum, a warp for each row.
__device__ void weigh(const Queries& queries, int keys, int split, int splits, float* scores,
                      const Partial& partial) {
    const int lane = lane_index();
    for (int r = threadIdx.x / warp_size; r < queries.count; r += warps) {
        float* row = scores + r * keys;
        float greatest = -INFINITY, total = 0;
        for (int key = lane; key < keys; key += warp_size) greatest = fmaxf(greatest, row[key]);
        greatest = over_warp(greatest, Maximum());
        const float shift = greatest == -INFINITY ? 0 : greatest;
        for (int key = lane; key < keys; key += warp_size) {
            row[key] = expf(row[key] - shift);
            total += row[key];
        }
        total = over_warp(total, Sum());
        if (lane > 0) continue;
        partial.greatest[queries.index(r) * splits + split] = greatest;
        partial.total[queries.index(r) * splits + split] = total;
    }
}

// Sums of values by weight. Threads share out features, and where there are few of these, keys.
__device__ void sum_values(const Attention& a, const Queries& queries, const float* weights,
                           int first_key, int keys, float* shared, float* result, int64_t stride) {
    const int width = static_cast<int>(a.value_d), wide = (width + warp_size - 1) / warp_size;
    const int parts = max(1, warps / max(1, wide)), each = threads / parts;
    const int part = static_cast<int>(threadIdx.x) / each, place = threadIdx.x % each;
    for (int from = 0; from < width; from += each) {
        const int f = from + place;
        float sums[most_rows] = {};
        if (f < width) {
#pragma unroll 8
            for (int key = part; key < keys; key += parts) {
                const float x = row_of(a.v, queries.batch, queries.kv_head, first_key + key)[f];
#pragma unroll
                for (int r = 0; r < most_rows; r++) {
                    const float weight = r < queries.count ? weights[r * keys + key] : 0;
                    if (weight != 0) sums[r] = fmaf(weight, x, sums[r]);  // 0 hides even a NaN
                }
            }
        }
        for (int r = 0; r < queries.count; r++) {
            __syncthreads();  // what was here has been read
            shared[threadIdx.x] = sums[r];
            __syncthreads();
            float sum = 0;
            for (int other = 0; other < parts; other++) sum += shared[other * each + place];
            if (part == 0 && f < width) result[queries.index(r) * stride + f] = sum;
        }
    }
}

__global__ void __launch_bounds__(threads)
    split_kernel(Attention a, int split_keys, int splits, Partial partial) {
    const Queries queries(a);
    const int split = static_cast<int>(blockIdx.z), first_key = split * split_keys;
    const int keys = min(split_keys, static_cast<int>(a.k_rows) - first_key);
    const int d = static_cast<int>(a.d);
    auto* q = dynamic_shared<float>();
    float *scores = q + most_rows * d, *sums = scores + most_rows * split_keys;
    for (int i = threadIdx.x; i < queries.count * d; i += threads)
        q[i] = row_of(a.q, queries.batch, queries.head(i / d), queries.row(i / d))[i % d];
    __syncthreads();
    find_scores(a, queries, q, first_key, keys, scores);
    __syncthreads();
    weigh(queries, keys, split, splits, scores, partial);
    __syncthreads();
    sum_values(a, queries, scores, first_key, keys, sums, partial.result + split * a.value_d,
               splits * a.value_d);
}

// A warp for each row.
__global__ void __launch_bounds__(threads)
    join_kernel(Attention a, int splits, Partial partial, Heads<float> out, float* lse) {
    const int64_t index = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
    if (index >= a.batch * a.heads * a.q_rows) return;
    const float *maxima = partial.greatest + index * splits, *sums = partial.total + index * splits;
    float greatest = -INFINITY, total = 0;
    for (int i = 0; i < splits; i++) greatest = fmaxf(greatest, maxima[i]);
    const float shift = greatest == -INFINITY ? 0 : greatest;
    for (int i = 0; i < splits; i++) total = fmaf(sums[i], expf(maxima[i] - shift), total);
    const float scale = total == 0 ? 0 : 1 / total;
    const int64_t head = index / a.q_rows, row = index % a.q_rows;
    float* result = row_of(out, head / a.heads, head % a.heads, row);
    for (int64_t f = lane_index(); f < a.value_d; f += warp_size) {
        float sum = 0;
        for (int i = 0; i < splits; i++) {
            const float factor = expf(maxima[i] - shift);
            if (factor != 0)
                sum = fmaf(partial.result[(index * splits + i) * a.value_d + f], factor, sum);
        }
        result[f] = sum * scale;
    }
    if (lane_index() == 0) lse[index] = total == 0 ? -INFINITY : greatest + logf(total);
}

}  // namespace

bool few_queries(const Attention& a) {
    return a.q_rows <= most_rows && a.k_rows > 0 && a.d <= most_d &&
           a.heads / a.kv_heads * a.q_rows <= 65535;
}

void forward_of_few(const Attention& a, const Heads<float>& out, float* lse) {
    const Splits splits(a.k_rows);
    const int64_t rows = a.batch * a.heads * a.q_rows, all = rows * splits.count;
    const Scratch<float> greatest(static_cast<size_t>(all)), total(static_cast<size_t>(all));
    const Scratch<float> result(static_cast<size_t>(all * a.value_d));
    const Partial partial{greatest.data(), total.data(), result.data()};
    const dim3 grid(static_cast<unsigned>(a.batch * a.kv_heads),
                    static_cast<unsigned>(divide_up(a.heads / a.kv_heads * a.q_rows, most_rows)),
                    static_cast<unsigned>(splits.count));
    const size_t shared = most_rows * (a.d + splits.keys) + threads;
    launch(split_kernel, grid, dim3(threads), shared * sizeof(float), a, splits.keys, splits.count,
           partial);
    launch(join_kernel, dim3(static_cast<unsigned>(divide_up(rows, warps))), dim3(threads), 0, a,
           splits.count, partial, out, lse);
}

}  // namespace minillm::device
