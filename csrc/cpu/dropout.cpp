#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

// Number i of the SplitMix64 sequence of a seed (Steele, Lea, Flood, OOPSLA 2014): each element can
// ask for its own, so the mask depends neither on order nor on threads.
INLINE uint64_t splitmix64(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

}  // namespace

void dropout_forward(const float* x, int64_t n, double p, uint64_t seed, float* out) {
    const auto least = static_cast<uint64_t>(__builtin_ceil(p * (1 << 24)));
    const auto scale = static_cast<float>(1 / (1 - p));
    for_each_range(n, [=](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; i++)
            out[i] = splitmix64(seed, i) >> 40 >= least ? x[i] * scale : 0.0f;
    });
}

}  // namespace minillm::MINILLM_ISA
