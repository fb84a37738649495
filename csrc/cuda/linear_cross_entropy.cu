// Cross-entropy straight from features: the logits of some rows at a time, for all classes. They
// are float32 sums of the product, in rows that begin where fast products want them.
#include "factor.h"
#include "kernels.h"
#include "loss.h"
#include "visit.h"

namespace minillm::device {
namespace {

#ifdef __CUDACC__
constexpr int64_t most_logits = 1 << 26;  // at once: 256 MB
#else
constexpr int64_t most_logits = 1 << 10;  // so that small tests see more than one part
#endif
constexpr int64_t whole_tiles = 128;  // rows of the products' tiles

// A block for each row; rows begin at multiples of 16 bytes, and may end anywhere.
__global__ void __launch_bounds__(block_threads)
    row_losses(const float* logits, int64_t stride, Target target, float* losses, float* lse) {
    __shared__ float shared[block_threads / warp_size];
    const Team<block_threads> team{shared};
    const int64_t row = blockIdx.x, whole = target.classes / 4 * 4;
    const float* own = logits + row * stride;
    RowSums sums;
#pragma unroll 4
    for (int64_t col = team.rank() * 4; col < whole; col += block_threads * 4) {
        const Pack<4> pack = load<4>(own + col);
        sums.raise(fmaxf(fmaxf(pack.at[0], pack.at[1]), fmaxf(pack.at[2], pack.at[3])));
#pragma unroll
        for (int i = 0; i < 4; i++) sums.add(pack.at[i]);
    }
    if (whole + team.rank() < target.classes) {
        const float last = own[whole + team.rank()];
        sums.raise(last);
        sums.add(last);
    }
    sums.share(team);
    if (team.rank() > 0) return;
    lse[row] = sums.lse();
    const float chosen = target.known(row) ? own[target.ids[row]] : NAN;
    losses[row] = target.ignored(row) ? 0 : sums.loss(target, chosen);
}

// d loss / d logits, each row times its upstream gradient.
template <class T, int Width>
struct Slope {
    using Loaded = Pack<Width>;
    const float* logits;
    int64_t stride;
    const float *grad, *lse;
    Target target;
    T* to;

    __device__ Loaded load(int64_t row, int64_t col) const {
        return device::load<Width>(logits + row * stride + col);
    }
    __device__ Pack<Width> finish(int64_t row, int64_t col, Loaded values) const {
        const bool ignored = target.ignored(row);
        const float scale = ignored ? 0 : grad[row], shift = lse[row], floor = target.floor();
        const int64_t id = target.ids[row];
#pragma unroll
        for (int i = 0; i < Width; i++) {
            const float chosen = col + i == id ? 1 - target.smoothing : 0;
            const float slope = expf(values.at[i] - shift) - floor - chosen;
            values.at[i] = ignored ? 0 : slope * scale;
        }
        store(to + row * stride + col, values);
        return values;
    }
};

// Rows of logits in turn.
class Parts {
 public:
    Parts(const float* x, const float* weight, int64_t rows, int64_t classes, int64_t k)
        : rows_(rows),
          classes_(classes),
          k_(k),
          stride_(divide_up(classes, 8) * 8),
          each_(rows_each(rows, stride_)),
          x_(x, rows, k),
          weight_(weight, classes, k),
          logits_(each_ * stride_) {}

    int64_t stride() const { return stride_; }
    int64_t each() const { return each_; }
    float* logits() const { return logits_.data(); }
    const Factor& x() const { return x_; }
    const Factor& weight() const { return weight_; }

    // f(first row, how many) when the logits of those are there.
    template <class F>
    void run(F f) const {
        for (int64_t row = 0; row < rows_; row += each_) {
            const int64_t count = row + each_ < rows_ ? each_ : rows_ - row;
            multiply({count, classes_, k_, x_.part(row), transposed(weight_), logits(), stride_});
            f(row, count);
        }
    }

 private:
    static int64_t rows_each(int64_t rows, int64_t stride) {
        int64_t each = most_logits / (stride ? stride : 1);
        if (each > whole_tiles) each = each / whole_tiles * whole_tiles;
        if (each > rows) each = rows;
        return each ? each : 1;
    }

    int64_t rows_, classes_, k_, stride_, each_;
    Factor x_, weight_;
    Scratch<float> logits_;
};

}  // namespace

// Keeps nothing in `kept`: the products are quicker than the memory for all logits.
void linear_cross_entropy_forward(const float* x, const float* weight, const int64_t* target,
                                  int64_t rows, int64_t classes, int64_t k, int64_t ignore_index,
                                  float label_smoothing, float* losses, float* lse, float*,
                                  int64_t) {
    const Parts parts(x, weight, rows, classes, k);
    parts.run([&](int64_t row, int64_t count) {
        launch(row_losses, dim3(count), block_threads, 0, parts.logits(), parts.stride(),
               Target{target + row, ignore_index, classes, label_smoothing}, losses + row,
               lse + row);
    });
}

void linear_cross_entropy_backward(const float* grad, const float* x, const float* weight,
                                   const int64_t* target, const float* lse, const float*, int64_t,
                                   int64_t rows, int64_t classes, int64_t k, int64_t ignore_index,
                                   float label_smoothing, Gradient dx, Gradient dweight) {
    const Parts parts(x, weight, rows, classes, k);
    const Room slope(parts.each(), classes);
    if (!rows) multiply_into(dweight, classes, k, 0, slope, parts.x());
    parts.run([&](int64_t row, int64_t count) {
        const auto work = [&](auto* to, auto width) {
            using T = std::remove_pointer_t<decltype(to)>;
            constexpr int W = decltype(width)::value;
            visit<W>(Slope<T, W>{parts.logits(),
                                 parts.stride(),
                                 grad + row,
                                 lse + row,
                                 {target + row, ignore_index, classes, label_smoothing},
                                 to},
                     count, classes);
        };
        const auto widths = [&](auto* to) {
            if (classes % 4 == 0)
                work(to, std::integral_constant<int, 4>());
            else
                work(to, std::integral_constant<int, 1>());
        };
        if (slope.number() == Number::bf16)
            widths(slope.data<bf16>());
        else
            widths(slope.data<float>());
        const Gradient here{dx.data ? dx.data + row * k : nullptr, dx.add};
        multiply_into(here, count, k, classes, slope, parts.weight());
        multiply_into({dweight.data, dweight.add || row > 0}, classes, k, count, transposed(slope),
                      parts.x().part(row));
    });
}

}  // namespace minillm::device
