#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

typedef uint64_t v64 __attribute__((vector_size(4 * W)));  // half as many lanes as vf

// The numbers i, i + 1, ... of the SplitMix64 sequence of a seed (Steele, Lea, Flood, OOPSLA 2014),
// upper 24 bits. Each element can ask for its own, so a mask depends neither on order nor on
// threads.
INLINE v64 splitmix64(uint64_t seed, int64_t i) {
    constexpr uint64_t gamma = 0x9E3779B97F4A7C15u;
    v64 z;
    for (int lane = 0; lane < W / 2; lane++) z[lane] = seed + (i + 1 + lane) * gamma;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) >> 40;
}

template <int... I>
INLINE vi lower_halves(v64 first, v64 second, Lanes<I...>) {
    return shuffle<2 * I...>((vi)first, (vi)second);
}

}  // namespace

void dropout_forward(const float* x, int64_t n, double p, Seed given, float* out) {
    const uint64_t seed = given.at ? *given.at : given.value;
    const auto least = static_cast<int32_t>(__builtin_ceil(p * (1 << 24)));
    const auto scale = static_cast<float>(1 / (1 - p));
    for_each_vector(n, [=](int64_t i, auto lanes) {
        const v64 first = splitmix64(seed, i), second = splitmix64(seed, i + W / 2);
        const vi random = lower_halves(first, second, AllLanes{});
        store(out + i, select(random >= least, load(x + i, lanes) * scale, vf{}), lanes);
    });
}

}  // namespace minillm::MINILLM_ISA
