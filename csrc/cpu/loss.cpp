#include "loss.h"

#include "../precision.h"
#include "../scratch.h"
#include "bf16.h"
#include "declare.h"
#include "rows.h"

namespace minillm::MINILLM_ISA {
namespace {

// The sums of a row whose parts come in order.
struct RowState : RowSums {
    void add(const float* logits, int64_t first, int64_t count, int64_t target) {
        const float now = row_max(logits, count);
        if (now > greatest) {
            others = (others + ties) * __builtin_expf(greatest - now);
            ties = 0;
            greatest = now;
        }
        const float shift = greatest == -infinity() ? 0 : greatest;
        float sums[3];
        sum_over(count, sums, [=](int64_t i, auto lanes, vf* parts) {
            const vf low = load(logits + i, lanes, -infinity()) - shift;
            parts[0] += select(low == 0.0f, vf{}, exp(low));
            parts[1] += select(low == 0.0f, splat(1.0f), vf{});
            parts[2] += load(logits + i, lanes);
        });
        others += sums[0];
        ties += sums[1];
        total += sums[2];
        if (target >= first && target < first + count) at_target = logits[target - first];
    }
};

// Turns part of a row of logits into part of its gradient.
void logits_to_gradient(const float* logits, int64_t first, int64_t count, int64_t row, float grad,
                        float lse, const Target& t, float* out) {
    const int64_t target = t.ids[row];
    if (t.ignored(row)) {
        memset(out, 0, sizeof(float) * count);
        return;
    }
    const float floor = t.floor();
    over_vectors(0, count, [&](int64_t i, auto lanes) {
        store(out + i, (exp(load(logits + i, lanes) - lse) - floor) * grad, lanes);
    });
    if (target >= first && target < first + count) out[target - first] -= (1 - t.smoothing) * grad;
}

// How the logits of a linear layer are cut so that one tile of them takes at most 4 MB.
struct Tiles {
    int64_t rows, cols;
    Tiles(int64_t all_rows, int64_t classes) {
        cols = smaller(classes, 2048);
        rows = smaller(all_rows, (1 << 20) / cols);
    }
};

// Logits that the forward pass leaves for the backward pass: those of the first classes, by tile.
template <class T>
struct Kept {
    T* data;
    int64_t classes, rows;

    T* tile(int64_t row, int64_t col, int64_t width) const {  // null if it is not kept
        return col + width <= classes ? data + col * rows + row * width : nullptr;
    }
};

}  // namespace

void cross_entropy_forward(const float* logits, const int64_t* target, int64_t rows,
                           int64_t classes, int64_t ignore_index, float label_smoothing,
                           float* losses, float* lse) {
    const Target t{target, ignore_index, classes, label_smoothing};
    for_each_row(rows, classes, [=](int64_t row) {
        RowState state;
        state.add(logits + row * classes, 0, classes, target[row]);
        lse[row] = state.lse();
        losses[row] = t.ignored(row) ? 0 : state.loss(t);
    });
}

void cross_entropy_backward(const float* grad, const float* logits, const int64_t* target,
                            const float* lse, int64_t rows, int64_t classes, int64_t ignore_index,
                            float label_smoothing, float* dlogits) {
    const Target t{target, ignore_index, classes, label_smoothing};
    for_each_row(rows, classes, [=](int64_t row) {
        logits_to_gradient(logits + row * classes, 0, classes, row, grad[row], lse[row], t,
                           dlogits + row * classes);
    });
}

void linear_cross_entropy_forward(const float* x, const float* weight, const int64_t* target,
                                  int64_t rows, int64_t classes, int64_t k, int64_t ignore_index,
                                  float label_smoothing, float* losses, float* lse,
                                  float* kept_logits, int64_t kept_classes) {
    const Target t{target, ignore_index, classes, label_smoothing};
    if (rows == 0 || classes == 0) return;
#if MINILLM_AMX
    if (bf16_products() && suits_tiles(rows, classes, k))
        return linear_cross_entropy_bf16(row_major(x, rows, k), row_major(weight, classes, k), t,
                                         losses, lse);
#endif
    const Tiles tiles(rows, classes);
    const Kept<float> kept{kept_logits, kept_classes, rows};
    const Scratch own(tiles.rows * tiles.cols), memory(tiles.rows * sizeof(RowState) / 4);
    auto* states = reinterpret_cast<RowState*>(static_cast<float*>(memory));
    for (int64_t row = 0; row < rows; row += tiles.rows) {
        const int64_t count = smaller(tiles.rows, rows - row);
        for (int64_t i = 0; i < count; i++) states[i] = RowState{};
        for (int64_t col = 0; col < classes; col += tiles.cols) {
            const int64_t width = smaller(tiles.cols, classes - col);
            float* to_keep = kept.tile(row, col, width);
            float* logits = to_keep ? to_keep : own;
            gemm(row_major(x + row * k, count, k),
                 transposed(row_major(weight + col * k, width, k)), {}, logits, width);
            for_each_row(count, width, [&](int64_t i) {
                states[i].add(logits + i * width, col, width, target[row + i]);
            });
        }
        for (int64_t i = 0; i < count; i++) {
            lse[row + i] = states[i].lse();
            losses[row + i] = t.ignored(row + i) ? 0 : states[i].loss(t);
        }
    }
}

void linear_cross_entropy_backward(const float* grad, const float* x, const float* weight,
                                   const int64_t* target, const float* lse,
                                   const float* kept_logits, int64_t kept_classes, int64_t rows,
                                   int64_t classes, int64_t k, int64_t ignore_index,
                                   float label_smoothing, Gradient dx, Gradient dweight) {
    const Target t{target, ignore_index, classes, label_smoothing};
    if (rows == 0 || classes == 0) {
        if (dx.data && !dx.add) memset(dx.data, 0, sizeof(float) * rows * k);
        if (dweight.data && !dweight.add) memset(dweight.data, 0, sizeof(float) * classes * k);
        return;
    }
#if MINILLM_AMX
    if (bf16_products() && suits_tiles(rows, classes, k))
        return linear_cross_entropy_backward_bf16(
            grad, row_major(x, rows, k), row_major(weight, classes, k), t, lse, dx, dweight);
#endif
    const Tiles tiles(rows, classes);
    const Kept<const float> kept{kept_logits, kept_classes, rows};
    const Scratch dlogits(tiles.rows * tiles.cols);
    for (int64_t col = 0; col < classes; col += tiles.cols) {
        const int64_t width = smaller(tiles.cols, classes - col);
        const Matrix w = row_major(weight + col * k, width, k);
        for (int64_t row = 0; row < rows; row += tiles.rows) {
            const int64_t count = smaller(tiles.rows, rows - row);
            const Matrix inputs = row_major(x + row * k, count, k);
            const float* logits = kept.tile(row, col, width);
            if (!logits) {
                gemm(inputs, transposed(w), {}, dlogits, width);
                logits = dlogits;
            }
            for_each_row(count, width, [&](int64_t i) {
                logits_to_gradient(logits + i * width, col, width, row + i, grad[row + i],
                                   lse[row + i], t, dlogits + i * width);
            });
            const Matrix d = row_major(dlogits, count, width);
            if (dx.data) gemm(d, w, Gradient{dx.data + row * k, dx.add || col > 0});
            if (dweight.data)
                gemm(transposed(d), inputs,
                     Gradient{dweight.data + col * k, dweight.add || row > 0});
        }
    }
}

}  // namespace minillm::MINILLM_ISA
