// The rows of the gradient are sorted by id and cut into tiles of equal length, a block each. What
// an id has within a tile is added up in order. An id that reaches over the ends of tiles has its
// parts of them added up afterwards, in order as well.
#include "kernels.h"
#include "rows.h"
#include "sort.h"

namespace minillm::device {
namespace {

constexpr int64_t each = 32;  // rows of a tile

struct Rows {
    const float* grad;
    const uint32_t *keys, *places;
    int64_t n, vocabulary, cols;
    float *heads, *tails;  // (tiles, cols): of the id that came over the start, that goes on
    float* dweight;

    __device__ bool continues(int64_t i) const { return i > 0 && i < n && keys[i] == keys[i - 1]; }
};

template <int W>
__device__ __forceinline__ void add_to(float* at, const Pack<W>& sum) {
    store(at, plus(sum, *reinterpret_cast<const Pack<W>*>(at)));
}

template <int W>
__global__ void __launch_bounds__(block_threads) tiles_kernel(Rows r) {
    const int64_t first = blockIdx.x * each, end = min(first + each, r.n);
    const int64_t col = (static_cast<int64_t>(blockIdx.y) * block_threads + threadIdx.x) * W;
    if (col >= r.cols) return;
    bool head = r.continues(first);
    Pack<W> sum{};
    for (int64_t i = first; i < end; i++) {
        sum = plus(sum, load<W>(r.grad + r.places[i] * r.cols + col));
        const bool last = i + 1 == end;
        if (!last && r.continues(i + 1)) continue;
        if (head)
            store(r.heads + blockIdx.x * r.cols + col, sum);
        else if (last && r.continues(end))
            store(r.tails + blockIdx.x * r.cols + col, sum);
        else if (r.keys[i] < r.vocabulary)
            add_to(r.dweight + r.keys[i] * r.cols + col, sum);
        head = false;
        sum = Pack<W>{};
    }
}

// By the tile in which an id begins that goes on in the next.
template <int W>
__global__ void __launch_bounds__(block_threads) ends_kernel(Rows r) {
    const int64_t first = blockIdx.x * each, end = min(first + each, r.n);
    const int64_t col = (static_cast<int64_t>(blockIdx.y) * block_threads + threadIdx.x) * W;
    if (col >= r.cols || !r.continues(end)) return;
    const uint32_t key = r.keys[end];
    const bool whole = r.keys[first] == key;
    if (key >= r.vocabulary || (whole && r.continues(first))) return;
    Pack<W> sum = load<W>(r.tails + blockIdx.x * r.cols + col);
    for (int64_t tile = blockIdx.x + 1; tile * each < r.n && r.keys[tile * each] == key; tile++)
        sum = plus(sum, load<W>(r.heads + tile * r.cols + col));
    add_to(r.dweight + key * r.cols + col, sum);
}

template <int W>
void add_rows(const Rows& rows) {
    const dim3 blocks(static_cast<unsigned>(divide_up(rows.n, each)),
                      static_cast<unsigned>(divide_up(rows.cols, block_threads * W)));
    launch(tiles_kernel<W>, blocks, dim3(block_threads), 0, rows);
    launch(ends_kernel<W>, blocks, dim3(block_threads), 0, rows);
}

}  // namespace

void embedding_backward(const float* grad, const int64_t* ids, int64_t n, int64_t vocabulary,
                        int64_t cols, Gradient dweight) {
    if (!dweight.add && vocabulary * cols > 0)
        check(cudaMemsetAsync(dweight.data, 0, sizeof(float) * vocabulary * cols, current_stream()),
              "embedding_backward");
    if (n == 0 || cols == 0) return;
    const Sorted sorted(ids, n, vocabulary);
    const int64_t tiles = divide_up(n, each);
    const Scratch<float> heads(tiles * cols), tails(tiles * cols);
    const Rows rows{grad, sorted.keys(), sorted.places(), n,           vocabulary,
                    cols, heads.data(),  tails.data(),    dweight.data};
    if (by_fours(cols, {grad, dweight.data}))
        add_rows<4>(rows);
    else
        add_rows<1>(rows);
}

}  // namespace minillm::device
