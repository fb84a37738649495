// Rows for memory-bound kernels. A row belongs to one warp, or where it is long to one block: the
// choice follows from its length alone, and so does the order of every sum.
#pragma once

#include <initializer_list>
#include <utility>

#include "../kernels.h"
#include "launch.h"

namespace minillm::device {

struct Sum {
    static constexpr float none = 0;
    __device__ float operator()(float a, float b) const { return a + b; }
};

struct Maximum {
    static constexpr float none = -INFINITY;
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The same result in every lane.
template <class Operation>
__device__ __forceinline__ float over_warp(float value, Operation operation) {
#pragma unroll
    for (int with = warp_size / 2; with > 0; with /= 2)
        value = operation(value, __shfl_xor_sync(all_lanes, value, with));
    return value;
}

// The threads that share a row: a warp, or a block of `Threads`.
template <int Threads>
struct Team {
    static constexpr int threads = Threads;
    float* shared;  // Threads / 32 numbers of the block's, for a team larger than a warp

    // The same result in every thread of the team; all of them have to come here.
    template <class Operation>
    __device__ __forceinline__ float over(float value, Operation operation) const {
        value = over_warp(value, operation);
        if constexpr (Threads > warp_size) {
            constexpr int warps = Threads / warp_size;
            __syncthreads();  // the numbers of the last reduction have been read
            if (threadIdx.x % warp_size == 0) shared[threadIdx.x / warp_size] = value;
            __syncthreads();
            const unsigned lane = threadIdx.x % warp_size;
            value = over_warp(lane < warps ? shared[lane] : Operation::none, operation);
        }
        return value;
    }
    __device__ float sum(float value) const { return over(value, Sum()); }
    __device__ float maximum(float value) const { return over(value, Maximum()); }
    __device__ int rank() const { return static_cast<int>(threadIdx.x) % Threads; }
};

// N neighbouring numbers, moved at once: 4 of them need an address that 16 divides.
template <int N>
struct alignas(4 * N) Pack {
    float at[N];
};

// Of an array that no kernel writes meanwhile.
template <int N>
__device__ __forceinline__ Pack<N> load(const float* from) {
    if constexpr (N == 4) {
        const float4 all = __ldg(reinterpret_cast<const float4*>(from));
        return {{all.x, all.y, all.z, all.w}};
    } else {
        return {{__ldg(from)}};
    }
}

// Of one that this kernel may write: what this thread alone reads there and writes.
template <int N>
__device__ __forceinline__ Pack<N> own(const float* from) {
    return *reinterpret_cast<const Pack<N>*>(from);
}

template <int N>
__device__ __forceinline__ void store(float* to, const Pack<N>& pack) {
    *reinterpret_cast<Pack<N>*>(to) = pack;
}

// A sum that is not fused with what gave b: as if added apart.
template <int N>
__device__ __forceinline__ Pack<N> plus(const Pack<N>& a, const Pack<N>& b) {
    Pack<N> sum;
#pragma unroll
    for (int i = 0; i < N; i++) sum.at[i] = __fadd_rn(a.at[i], b.at[i]);
    return sum;
}

// What all rows share, a number for each column: a constant if it is not given.
struct Columns {
    const float* data;
    float otherwise;

    template <int W>
    __device__ __forceinline__ Pack<W> load(int64_t col) const {
        if (data) return device::load<W>(data + col);
        Pack<W> pack;
        for (int i = 0; i < W; i++) pack.at[i] = otherwise;
        return pack;
    }
};

// The same row of N matrices, shared out to a team in packs of W. It is read once and kept in
// registers, `Held` packs a thread; where that is 0, it is read anew each time.
template <class Team, int Held, int W, int N>
struct Row {
    Team team;
    int64_t cols;
    const float* from[N];
    Pack<W> held[Held ? Held : 1][N];

    template <class... From>
    __device__ __forceinline__ Row(const Team& team, int64_t row, int64_t cols, From... matrices)
        : team(team), cols(cols), from{matrices + row * cols...} {
        if constexpr (Held > 0) each_place([&](int64_t col, int place) { read(col, held[place]); });
    }

    // The sum (or another operation) of f(the N numbers, those of `columns`) over all columns.
    template <class Operation, class F, class... C>
    __device__ __forceinline__ float reduce(Operation operation, F f, C... columns) const {
        float result = Operation::none;
        each([&]([[maybe_unused]] int64_t col, int, const Pack<W>* packs) {
            const Pack<W> more[] = {Pack<W>{}, columns.template load<W>(col)...};
#pragma unroll
            for (int i = 0; i < W; i++)
                result =
                    operation(result, apply(f, packs, more, i, std::index_sequence_for<C...>()));
        });
        return team.over(result, operation);
    }
    template <class F, class... C>
    __device__ __forceinline__ float sum(F f, C... columns) const {
        return reduce(Sum(), f, columns...);
    }

    // to[row] = f(the N numbers, those of `columns`), or what is there plus that.
    template <class F, class... C>
    __device__ __forceinline__ void write(const Gradient& to, int64_t row, F f,
                                          C... columns) const {
        each([&](int64_t col, int, const Pack<W>* packs) {
            const Pack<W> more[] = {Pack<W>{}, columns.template load<W>(col)...};
            float* at = to.data + row * cols + col;
            Pack<W> result;
#pragma unroll
            for (int i = 0; i < W; i++)
                result.at[i] = apply(f, packs, more, i, std::index_sequence_for<C...>());
            if (to.add) result = plus(result, *reinterpret_cast<const Pack<W>*>(at));
            store(at, result);
        });
    }
    template <class F, class... C>
    __device__ __forceinline__ void write(float* to, int64_t row, F f, C... columns) const {
        write(Gradient{to, false}, row, f, columns...);
    }

    // body(column of the first, place among those held, packs) for every pack of this thread.
    template <class Body>
    __device__ __forceinline__ void each(Body body) const {
        if constexpr (Held > 0) {
            each_place([&](int64_t col, int place) { body(col, place, held[place]); });
        } else {
#pragma unroll 4
            for (int64_t col = team.rank() * W; col < cols; col += Team::threads * W) {
                Pack<W> packs[N];
                read(col, packs);
                body(col, 0, packs);
            }
        }
    }

 private:
    template <class Body>
    __device__ __forceinline__ void each_place(Body body) const {
#pragma unroll
        for (int place = 0; place < Held; place++) {
            const int64_t col = (place * Team::threads + team.rank()) * W;
            if (col < cols) body(col, place);
        }
    }
    __device__ __forceinline__ void read(int64_t col, Pack<W>* packs) const {
#pragma unroll
        for (int n = 0; n < N; n++) packs[n] = load<W>(from[n] + col);
    }
    template <class F, size_t... More>
    __device__ __forceinline__ float apply(F& f, const Pack<W>* packs, const Pack<W>* more, int i,
                                           std::index_sequence<More...>) const {
        if constexpr (N == 1)
            return f(packs[0].at[i], more[More + 1].at[i]...);
        else
            return f(packs[0].at[i], packs[1].at[i], more[More + 1].at[i]...);
    }
};

constexpr int block_threads = 256;

// Work on the row of a team: operator()<Held, W>(team, row, cols).
template <class Team, int Held, int W, class Work>
__global__ void __launch_bounds__(block_threads)
    rows_kernel(int64_t rows, int64_t cols, Work work) {
    __shared__ float shared[block_threads / warp_size];
    const Team team{shared};
    constexpr int teams = block_threads / Team::threads;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * teams + threadIdx.x / Team::threads;
    if (row < rows) work.template operator()<Held, W>(team, row, cols);  // never part of a team
}

// Whether rows of `cols` numbers can be moved by fours.
inline bool by_fours(int64_t cols, std::initializer_list<const void*> arrays) {
    bool all = cols % 4 == 0;
    for (const void* array : arrays) all = all && reinterpret_cast<uintptr_t>(array) % 16 == 0;
    return all;
}

// The shape of a kernel for rows, chosen by their length alone; see choose_shape.
template <class T, int H, int Wide>
struct RowShape {
    using Team = T;
    static constexpr int held = H, width = Wide, teams = block_threads / T::threads;
};

// launch(RowShape) for rows of `cols`, `fours` if all arrays can be moved so. A row of up to 1024
// numbers is a warp's, a longer one a block's; up to 8192 are kept in registers.
template <class Launch>
void choose_shape(int64_t cols, bool fours, Launch launch) {
    using Warp = Team<warp_size>;
    using Block = Team<block_threads>;
    if (!fours && cols <= 1024) return launch(RowShape<Warp, 0, 1>());
    if (!fours) return launch(RowShape<Block, 0, 1>());
    if (cols <= 256) return launch(RowShape<Warp, 2, 4>());
    if (cols <= 512) return launch(RowShape<Warp, 4, 4>());
    if (cols <= 1024) return launch(RowShape<Warp, 8, 4>());
    if (cols <= 4096) return launch(RowShape<Block, 4, 4>());
    if (cols <= 8192) return launch(RowShape<Block, 8, 4>());
    launch(RowShape<Block, 0, 4>());
}

template <class Work>
void for_each_row(int64_t rows, int64_t cols, bool fours, const Work& work) {
    choose_shape(cols, fours, [&](auto shape) {
        using S = decltype(shape);
        launch(rows_kernel<typename S::Team, S::held, S::width, Work>,
               dim3(static_cast<unsigned>(divide_up(rows, S::teams))), dim3(block_threads), 0, rows,
               cols, work);
    });
}

}  // namespace minillm::device
