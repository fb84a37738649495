// A thread opens a piece of a block: two groups of four numbers.
#include "aligned_blocks.h"
#include "numbers.h"
#include "open_blocks.h"

namespace minillm::device {
namespace {

template <class T>
__device__ __forceinline__ void write(T* to, const float* numbers, float d, float m, int64_t left,
                                      bool by_fours) {
    Pack<4> pack;
#pragma unroll
    for (int i = 0; i < 4; i++) pack.at[i] = d * numbers[i] + m;
    if (by_fours && left >= 4) return store(to, pack);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < left) store(to + i, Pack<1>{{pack.at[i]}});
}

template <class Kind, class T>
__global__ void __launch_bounds__(block_threads)
    open_kernel(BlockRows from, T* out, int64_t stride, bool by_fours) {
    const int64_t pieces = divide_up(from.k, Kind::numbers) * Kind::pieces;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    const int64_t row = i / pieces, b = i % pieces / Kind::pieces;
    if (row >= from.count) return;
    const int piece = static_cast<int>(i % Kind::pieces);
    const int64_t id = from.ids ? from.ids[row] : row, left = from.k - b * Kind::numbers;
    const bool there = id >= 0 && id < from.rows;
    const uint8_t* block = from.blocks + (there ? id : 0) * Kind::row_bytes(from.k);
    Piece w{{}, {}, {NAN, NAN}};
    if (there) w = Kind::open(block + b * Kind::bytes, piece, left);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int start = Kind::start(piece, half);
        write(out + row * stride + b * Kind::numbers + start, w.numbers[half], w.d[half], w.m[half],
              left - start, by_fours);
    }
}

template <class Kind, class T>
void open_as(BlockRows from, T* out, int64_t stride) {
    const AlignedBlocks aligned(from.blocks, from.rows * Kind::row_bytes(from.k), Kind::alignment);
    from.blocks = aligned.data();
    const int64_t threads = from.count * divide_up(from.k, Kind::numbers) * Kind::pieces;
    const bool fours = stride % 4 == 0 && reinterpret_cast<uintptr_t>(out) % (4 * sizeof(T)) == 0;
    launch(open_kernel<Kind, T>, dim3(static_cast<unsigned>(divide_up(threads, block_threads))),
           dim3(block_threads), 0, from, out, stride, fours);
}

template <class T>
void open_rows(const BlockRows& from, T* out, int64_t stride) {
    of_kind(from.kind, [&](auto kind) { open_as<decltype(kind)>(from, out, stride); });
}

}  // namespace

void open_blocks(const BlockRows& from, float* out) { open_rows(from, out, from.k); }

void open_blocks(const BlockRows& from, const Room& room) {
    if (room.number() == Number::bf16)
        open_rows(from, room.data<bf16>(), room.stride());
    else
        open_rows(from, room.data<float>(), room.stride());
}

}  // namespace minillm::device
