// AdamW whose moments take a byte each: those that share a scale are decoded, updated and encoded
// while they are in the cache.
#include "declare.h"
#include "ranges.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t block = moments_of_scale;
constexpr float largest_m = 127, largest_v = 255;
// 1.5 * 2^23: what is added to it is rounded to a whole number, whose low byte is the sum's.
constexpr float to_whole = 12582912.0f;

// sign(c) (|c| / 127)² and (c / 255)⁴ of the scales.
void decode(const Moments8bit& p, int64_t first, int64_t n, float* m, float* v) {
    const float m_scale = p.m_scale[first / block], v_scale = p.v_scale[first / block];
    for (int64_t i = 0; i < n; i++) {
        const float share = static_cast<float>(p.m[first + i]) * (1 / largest_m);
        m[i] = share * __builtin_fabsf(share) * m_scale;
    }
    for (int64_t i = 0; i < n; i++) {
        const float share = static_cast<float>(p.v[first + i]) * (1 / largest_v);
        v[i] = share * share * (share * share) * v_scale;
    }
}

template <class Code>
void put(const float* wholes, int64_t n, Code* codes) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, wholes + i, sizeof bits);
        codes[i] = static_cast<Code>(bits);
    }
}

// Takes the place of m and v for what is to be written.
void encode(const Moments8bit& p, int64_t first, int64_t n, float* m, float* v) {
    const float m_scale = p.m_scale[first / block], v_scale = p.v_scale[first / block];
    const float m_whole = m_scale > 0 ? m_scale : 1, v_whole = v_scale > 0 ? v_scale : 1;
    over_vectors(0, n, [=](int64_t i, auto lanes) {
        const vf moment = load(m + i, lanes), square = load(v + i, lanes);
        const vf share = square_root(magnitude(moment) / m_whole);
        const vf code = square_root(square_root(square / v_whole)) * largest_v;
        store(m + i, select(moment < 0, -share, share) * largest_m + to_whole, lanes);
        store(v + i, max(code, select(square > 0, splat(1.0f), vf{})) + to_whole, lanes);
    });
    put(m, n, p.m + first);
    put(v, n, p.v + first);
}

void update(const Moments8bit& p, const Rates& s, int64_t first, int64_t n) {
    float m[block], v[block];
    decode(p, first, n, m, v);
    vf m_peak{}, v_peak{};
    over_vectors(0, n, [&](int64_t i, auto lanes) {
        vf moment = load(m + i, lanes), square = load(v + i, lanes);
        float* at = p.param + first + i;
        store(at, s.update(load(at, lanes), load(p.grad + first + i, lanes), moment, square),
              lanes);
        store(m + i, moment, lanes);
        store(v + i, square, lanes);
        m_peak = max(magnitude(moment), m_peak);
        v_peak = max(square, v_peak);
    });
    p.m_scale[first / block] = largest(m_peak);
    p.v_scale[first / block] = largest(v_peak);
    encode(p, first, n, m, v);
}

}  // namespace

void adamw8bit_forward(const Moments8bit* parameters, int64_t count, const AdamW& settings) {
    static_assert(chunk_floats % block == 0, "a range has whole blocks");
    const Rates s(settings);
    const Ranges<Moments8bit> ranges(parameters, count, chunk_floats);
    ranges.for_each([=](const Moments8bit& p, int64_t, int64_t from, int64_t end) {
        for (int64_t first = from; first < end; first += block)
            update(p, s, first, smaller(block, end - first));
    });
}

}  // namespace minillm::MINILLM_ISA
