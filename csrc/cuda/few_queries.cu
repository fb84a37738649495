// A block for each head of each token and each split of the keys that it sees. Eight threads share
// a key, so that a block reads 32 at once; the weights of its keys lie in shared memory between the
// two halves of the work. What splits give, each under its own maximum, is joined in order.
#include "few_queries.h"
#include "rows.h"

namespace minillm::device {
namespace {

constexpr int sharers = 8;
constexpr int keys_at_once = block_threads / sharers;
constexpr int joiners = 128;
constexpr int64_t least_split = 256, most_splits = 64;

// Keys of a split, where a token sees `count`.
__host__ __device__ constexpr int64_t split_keys(int64_t count) {
    int64_t each = least_split;
    while (each * most_splits < count) each *= 2;
    return each;
}

// The most that a token may have that sees up to `most` keys: more keys may mean fewer splits.
int64_t splits_of(int64_t most) {
    const int64_t splits = divide_up(most, least_split);
    return splits < most_splits ? splits : most_splits;
}

// The keys that a token sees.
struct Seen {
    int64_t begin, count, each;

    __device__ Seen(const FewQueries& f, int64_t token) {
        const int64_t end = f.places.position(token) + 1, window = f.attention.window;
        begin = window && end > window ? end - window : 0;
        count = end - begin;
        each = split_keys(count);
    }
    __device__ int64_t splits() const { return divide_up(count, each); }
};

// What splits give, for each head of each token; null where all have one alone.
struct Partial {
    float *result, *greatest, *total;
};

template <int W>
__device__ __forceinline__ float times(const Pack<W>& a, const Pack<W>& b) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < W; i++) sum += a.at[i] * b.at[i];
    return sum;
}

// scores[i] = q · key i, scaled. The threads of a warp stay together.
template <int W>
__device__ void score(const CachedAttention& a, const float* q, const float* keys, int64_t count,
                      float* scores) {
    const int group = threadIdx.x / sharers, member = threadIdx.x % sharers;
#pragma unroll 4
    for (int64_t first = 0; first < count; first += keys_at_once) {
        const int64_t key = first + group;
        float sum = 0;
        if (key < count)
            for (int64_t col = member * W; col < a.d; col += sharers * W)
                sum += times(load<W>(keys + key * a.d + col), load<W>(q + col));
#pragma unroll
        for (int with = sharers / 2; with; with /= 2) sum += __shfl_xor_sync(all_lanes, sum, with);
        if (member == 0 && key < count) scores[key] = sum * a.scale;
    }
}

// out = the sum of the values, each times its weight; `parts` has W numbers for each thread.
template <int W>
__device__ void weigh(const CachedAttention& a, const float* weights, const float* values,
                      int64_t count, float share, float* parts, float* out) {
    const int64_t wide = a.value_d / W;
    for (int64_t begin = 0; begin < wide; begin += block_threads) {
        const int64_t lanes = wide - begin < block_threads ? wide - begin : block_threads;
        const int64_t groups = block_threads / lanes;
        const int64_t group = threadIdx.x / lanes, col = (begin + threadIdx.x % lanes) * W;
        Pack<W> sum = {};
        if (group < groups) {
#pragma unroll 4
            for (int64_t key = group; key < count; key += groups) {
                const Pack<W> value = load<W>(values + key * a.value_d + col);
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
__global__ void __launch_bounds__(block_threads) few_queries(FewQueries f, Partial partial) {
    __shared__ float reduced[block_threads / warp_size];
    float* parts = dynamic_shared<float>();
    float* scores = parts + block_threads * W;
    const Team<block_threads> team{reduced};
    const CachedAttention& a = f.attention;
    const int64_t head = blockIdx.x, row = blockIdx.y, split = blockIdx.z;
    const int64_t kv_head = head / (a.heads / a.kv_heads);
    const Seen seen(f, row);
    if (split >= seen.splits()) return;  // the whole block
    const LayerKeys keys = f.places.of(row, a.layer);
    const int64_t before = split * seen.each;
    const int64_t count = min(seen.each, seen.count - before);
    const int64_t first = kv_head * keys.capacity + seen.begin + before;
    const float* q = f.q.data + row * f.q.row_stride + head * f.q.head_stride;
    score<W>(a, q, keys.k + first * a.d, count, scores);
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
    float* out = f.out.data + row * f.out.row_stride + head * f.out.head_stride;
    float share = 1 / sum;
    if (partial.result) {
        const int64_t place = (row * a.heads + head) * gridDim.z + split;
        out = partial.result + place * a.value_d;
        share = 1;
        if (threadIdx.x == 0) {
            partial.greatest[place] = greatest;
            partial.total[place] = sum;
        }
    }
    weigh<W>(a, scores, keys.v + first * a.value_d, count, share, parts, out);
}

// A block for each head of each token. One split alone is given as if nothing had been split.
__global__ void __launch_bounds__(joiners) join(FewQueries f, Partial partial, int64_t stride) {
    const CachedAttention& a = f.attention;
    const int64_t head = blockIdx.x, row = blockIdx.y, place = (row * a.heads + head) * stride;
    const int splits = static_cast<int>(Seen(f, row).splits());
    const float *maxima = partial.greatest + place, *sums = partial.total + place;
    float greatest = -INFINITY, total = 0;
    for (int i = 0; i < splits; i++) greatest = fmaxf(greatest, maxima[i]);
    for (int i = 0; i < splits; i++) total = fmaf(sums[i], expf(maxima[i] - greatest), total);
    float* out = f.out.data + row * f.out.row_stride + head * f.out.head_stride;
    for (int64_t col = threadIdx.x; col < a.value_d; col += joiners) {
        const float* results = partial.result + place * a.value_d + col;
        float sum = 0;
        for (int i = 0; i < splits; i++)
            sum = fmaf(results[i * a.value_d], expf(maxima[i] - greatest), sum);
        out[col] = sum * (1 / total);
    }
}

bool lies_by_fours(const FewQueries& f) {
    const int64_t sizes = f.attention.d | f.attention.value_d | f.q.row_stride | f.q.head_stride |
                          f.out.row_stride | f.out.head_stride;
    return sizes % 4 == 0 && by_fours(4, {f.q.data, f.out.data});
}

int64_t most_seen(const CachedAttention& a, int64_t most_keys) {
    return a.window && a.window < most_keys ? a.window : most_keys;
}

}  // namespace

int64_t room_of_few(int64_t tokens, const CachedAttention& a, int64_t most_keys) {
    const int64_t splits = splits_of(most_seen(a, most_keys));
    return splits == 1 ? 0 : tokens * a.heads * splits * (a.value_d + 2);
}

void attend_few(const FewQueries& f, int64_t most_keys, bool keys_by_fours, float* room) {
    const CachedAttention& a = f.attention;
    const int64_t most = most_seen(a, most_keys), splits = splits_of(most);
    const int64_t places = f.tokens * a.heads * splits;
    Partial partial{};
    if (splits > 1) partial = {room, room + places * a.value_d, room + places * (a.value_d + 1)};
    const bool fours = keys_by_fours && lies_by_fours(f);
    const size_t shared = sizeof(float) * ((fours ? 4 : 1) * block_threads + split_keys(most));
    const dim3 heads(static_cast<unsigned>(a.heads), static_cast<unsigned>(f.tokens));
    const dim3 grid(heads.x, heads.y, static_cast<unsigned>(splits));
    launch(fours ? few_queries<4> : few_queries<1>, grid, block_threads, shared, f, partial);
    if (splits > 1) launch(join, heads, joiners, 0, f, partial, splits);
}

}  // namespace minillm::device
