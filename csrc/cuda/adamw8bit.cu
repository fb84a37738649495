// AdamW whose moments take a byte each. A warp has the numbers that share a scale: it decodes,
// updates and encodes them in its registers, so that each array is read and written once.
#include "kernels.h"
#include "tables.h"

namespace minillm::device {
namespace {

constexpr float largest_m = 127, largest_v = 255;
constexpr int64_t block = moments_of_scale;
constexpr int warps = block_threads / warp_size;
static_assert(range % (block * warps) == 0, "a range has whole blocks of every warp");

template <int W, class Code>
struct alignas(W) Codes {
    Code at[W];
};

template <int W, class Code>
__device__ __forceinline__ Codes<W, Code> codes(const Code* from) {
    return *reinterpret_cast<const Codes<W, Code>*>(from);
}

__device__ __forceinline__ float decoded(int8_t code, float scale) {
    const float share = static_cast<float>(code) * (1 / largest_m);
    return share * fabsf(share) * scale;
}
__device__ __forceinline__ float decoded(uint8_t code, float scale) {
    const float share = static_cast<float>(code) * (1 / largest_v), square = share * share;
    return square * square * scale;
}

__device__ __forceinline__ int8_t encoded(float m, float scale) {
    const float code = fminf(sqrtf(fabsf(m) / scale) * largest_m, largest_m);  // of NaN too
    return static_cast<int8_t>(rintf(copysignf(code, m)));
}
__device__ __forceinline__ uint8_t encoded_square(float v, float scale) {
    const float code = fminf(sqrtf(sqrtf(v / scale)) * largest_v, largest_v);
    return static_cast<uint8_t>(rintf(fmaxf(code, v > 0 ? 1 : 0)));
}

// The numbers of a lane: W neighbours, as many again a warp further on, ...
template <int W>
struct Lane {
    static constexpr int packs = block / (warp_size * W);
    const Moments8bit& p;
    const int64_t first, end;
    Pack<W> m[packs], v[packs];

    __device__ __forceinline__ Lane(const Moments8bit& p, int64_t first)
        : p(p), first(first), end(min(first + block, p.n)) {}

    template <class Body>
    __device__ __forceinline__ void each(Body body) {
#pragma unroll
        for (int k = 0; k < packs; k++) {
            const int64_t i = first + (k * warp_size + threadIdx.x % warp_size) * W;
            if (i < end) body(i, m[k], v[k]);
        }
    }

    __device__ __forceinline__ void update(const Rates& s) {
        const float m_scale = p.m_scale[first / block], v_scale = p.v_scale[first / block];
        each([&](int64_t i, Pack<W>& m, Pack<W>& v) {
            const Pack<W> grad = load<W>(p.grad + i);
            Pack<W> param = own<W>(p.param + i);
            const auto m_codes = codes<W>(p.m + i);
            const auto v_codes = codes<W>(p.v + i);
#pragma unroll
            for (int j = 0; j < W; j++) {
                m.at[j] = decoded(m_codes.at[j], m_scale);
                v.at[j] = decoded(v_codes.at[j], v_scale);
                param.at[j] = s.update(param.at[j], grad.at[j], m.at[j], v.at[j]);
            }
            store(p.param + i, param);
        });
    }

    __device__ __forceinline__ void encode() {
        float m_peak = 0, v_peak = 0;
        each([&](int64_t, const Pack<W>& m, const Pack<W>& v) {
#pragma unroll
            for (int j = 0; j < W; j++) {
                m_peak = fmaxf(m_peak, fabsf(m.at[j]));
                v_peak = fmaxf(v_peak, v.at[j]);
            }
        });
        m_peak = over_warp(m_peak, Maximum());  // after which all lanes have read the scales
        v_peak = over_warp(v_peak, Maximum());
        const float m_whole = m_peak > 0 ? m_peak : 1, v_whole = v_peak > 0 ? v_peak : 1;
        each([&](int64_t i, const Pack<W>& m, const Pack<W>& v) {
            Codes<W, int8_t> m_codes;
            Codes<W, uint8_t> v_codes;
#pragma unroll
            for (int j = 0; j < W; j++) {
                m_codes.at[j] = encoded(m.at[j], m_whole);
                v_codes.at[j] = encoded_square(v.at[j], v_whole);
            }
            *reinterpret_cast<Codes<W, int8_t>*>(p.m + i) = m_codes;
            *reinterpret_cast<Codes<W, uint8_t>*>(p.v + i) = v_codes;
        });
        if (threadIdx.x % warp_size == 0) {
            p.m_scale[first / block] = m_peak;
            p.v_scale[first / block] = v_peak;
        }
    }
};

__device__ __forceinline__ bool by_fours(const Moments8bit& p) {
    return aligned(p.n, p.param, p.grad) &&
           (reinterpret_cast<uintptr_t>(p.m) | reinterpret_cast<uintptr_t>(p.v)) % 4 == 0;
}

template <int W>
__device__ __forceinline__ void update(const Moments8bit& p, const Rates& s, int64_t first) {
    Lane<W> lane(p, first);
    lane.update(s);
    lane.encode();
}

__global__ void __launch_bounds__(block_threads)
    adamw8bit_kernel(const __grid_constant__ Table<Moments8bit> table, Rates s) {
    int64_t first;
    const Moments8bit& p = table.own(&first);
    const int64_t end = min(first + range, p.n);
    const bool fours = by_fours(p);
    for (first += threadIdx.x / warp_size * block; first < end; first += warps * block)
        fours ? update<4>(p, s, first) : update<1>(p, s, first);
}

}  // namespace

void adamw8bit_forward(const Moments8bit* parameters, int64_t count, const AdamW& s) {
    in_tables(parameters, count, [&](const Table<Moments8bit>& table, int64_t blocks) {
        launch(adamw8bit_kernel, dim3(static_cast<unsigned>(blocks)), dim3(block_threads), 0, table,
               Rates(s));
    });
}

}  // namespace minillm::device
