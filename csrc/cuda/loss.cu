#include "kernels.h"
#include "loss.h"
#include "rows.h"

namespace minillm::device {
namespace {

struct CrossEntropy {
    const float* logits;
    Target target;
    float *losses, *lse;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, Held, W, 1> r(team, row, cols, logits);
        RowSums sums;
        r.each([&](int64_t, int, const Pack<W>* packs) {
            float greatest = packs[0].at[0];
#pragma unroll
            for (int i = 1; i < W; i++) greatest = fmaxf(greatest, packs[0].at[i]);
            sums.raise(greatest);
#pragma unroll
            for (int i = 0; i < W; i++) sums.add(packs[0].at[i]);
        });
        sums.share(team);
        if (team.rank() > 0) return;
        lse[row] = sums.lse();
        const float own = target.known(row) ? logits[row * cols + target.ids[row]] : NAN;
        losses[row] = target.ignored(row) ? 0 : sums.loss(target, own);
    }
};

// Reads each logit once, so nothing is kept in registers.
struct CrossEntropyBackward {
    const float *grad, *logits;
    Target target;
    const float* lse;
    float* dlogits;

    template <int Held, int W, class Team>
    __device__ void operator()(const Team& team, int64_t row, int64_t cols) const {
        const Row<Team, 0, W, 1> r(team, row, cols, logits);
        const bool ignored = target.ignored(row);
        const float scale = ignored ? 0 : grad[row], shift = lse[row], floor = target.floor();
        const int64_t id = target.ids[row];
        r.each([&](int64_t col, int, const Pack<W>* packs) {
            Pack<W> result;
#pragma unroll
            for (int i = 0; i < W; i++) {
                const float chosen = col + i == id ? 1 - target.smoothing : 0;
                const float slope = expf(packs[0].at[i] - shift) - floor - chosen;
                result.at[i] = ignored ? 0 : slope * scale;
            }
            store(dlogits + row * cols + col, result);
        });
    }
};

}  // namespace

void cross_entropy_forward(const float* logits, const int64_t* target, int64_t rows,
                           int64_t classes, int64_t ignore_index, float label_smoothing,
                           float* losses, float* lse) {
    for_each_row(
        rows, classes, by_fours(classes, {logits}),
        CrossEntropy{logits, {target, ignore_index, classes, label_smoothing}, losses, lse});
}

void cross_entropy_backward(const float* grad, const float* logits, const int64_t* target,
                            const float* lse, int64_t rows, int64_t classes, int64_t ignore_index,
                            float label_smoothing, float* dlogits) {
    for_each_row(rows, classes, by_fours(classes, {logits, dlogits}),
                 CrossEntropyBackward{
                     grad, logits, {target, ignore_index, classes, label_smoothing}, lse, dlogits});
}

}  // namespace minillm::device
