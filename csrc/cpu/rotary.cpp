#include "../parallel.h"
#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

void turn_halves(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
    over_vectors(0, half, [=](int64_t i, auto lanes) {
        const vf a = load(x + i, lanes), b = load(x + half + i, lanes);
        const vf c = load(cos + i, lanes), s = load(sin + i, lanes);
        store(out + i, a * c - b * s, lanes);
        store(out + half + i, b * c + a * s, lanes);
    });
}

void turn_neighbours(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
    for (int64_t i = 0; i < half; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        out[2 * i] = a * cos[i] - b * sin[i];
        out[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

}  // namespace

void rotary_forward(const float* x, const float* cos, const float* sin, int64_t rows,
                    int64_t positions, int64_t d, int64_t half, bool interleaved, float* out) {
    const int64_t each = larger(1, chunk_floats / d);
    parallel_for(ceil_div(rows, each), [&](int64_t chunk) {
        for (int64_t i = chunk * each; i < smaller(rows, (chunk + 1) * each); i++) {
            const int64_t angle = i % positions * half;
            (interleaved ? turn_neighbours : turn_halves)(x + i * d, cos + angle, sin + angle, half,
                                                          out + i * d);
            for (int64_t j = 2 * half; j < d; j++) out[i * d + j] = x[i * d + j];
        }
    });
}

}  // namespace minillm::MINILLM_ISA
