#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {

// Every chunk owns a few columns of dweight and goes through all ids in order.
void embedding_backward(const float* grad, const int64_t* ids, int64_t n, int64_t vocabulary,
                        int64_t cols, Gradient dweight) {
    if (!dweight.add)
        for_each_range(vocabulary * cols, [=](int64_t first, int64_t end) {
            memset(dweight.data + first, 0, sizeof(float) * (end - first));
        });
    constexpr int64_t each = 4 * W;
    parallel_for(ceil_div(cols, each), [=](int64_t chunk) {
        const int64_t first = chunk * each, end = smaller(cols, first + each);
        for (int64_t i = 0; i < n; i++) {
            float* to = dweight.data + ids[i] * cols;
            over_vectors(first, end, [&](int64_t j, auto lanes) {
                store(to + j, load(to + j, lanes) + load(grad + i * cols + j, lanes), lanes);
            });
        }
    });
}

}  // namespace minillm::MINILLM_ISA
