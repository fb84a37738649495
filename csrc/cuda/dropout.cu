#include "elements.h"
#include "kernels.h"

namespace minillm::device {
namespace {

struct Dropout {
    Seed seed;
    uint32_t least;
    float scale;

    // Upper 24 bits of number i of the SplitMix64 sequence (Steele, Lea, Flood, OOPSLA 2014).
    __device__ uint32_t random(int64_t i) const {
        const uint64_t begin = seed.at ? *seed.at : seed.value;
        uint64_t z = begin + static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return static_cast<uint32_t>((z ^ (z >> 31)) >> 40);
    }
    __device__ float operator()(int64_t i, float x) const {
        return random(i) >= least ? x * scale : 0;
    }
};

}  // namespace

void dropout_forward(const float* x, int64_t n, double p, Seed seed, float* out) {
    const auto least = static_cast<uint32_t>(ceil(p * (1 << 24)));
    for_each_element(n, Dropout{seed, least, static_cast<float>(1 / (1 - p))}, out, x);
}

}  // namespace minillm::device
