// Products with a weight that stays as it lies in a file. With few rows, all of them share one pass
// over the weight, which memory paces: its numbers, unpacked in registers, meet activations that
// are rounded to 16 bits, and sum up exactly within a block. Each element of the result is summed
// in an order of its own, so its bits depend neither on the other rows nor on threads.
#include "../parallel.h"
#include "declare.h"
#include "rounded.h"

namespace minillm::MINILLM_ISA {
namespace {

#define FORCED inline __attribute__((always_inline))

constexpr int64_t chunk_bytes = 1 << 15;  // of the weight

template <class Kind>
struct Sum {
    vf lanes{};
    float offset = 0;

    FORCED void add(const Unit& weight, const float* d, const float* m, const RoundedRow& x,
                    int64_t block) {
        const int16_t* numbers = x.numbers + block * unit;
        const float scale = x.scales[block];
        if constexpr (Kind::halved) {
            add_half(weight, numbers, 0, d[0] * scale);
            add_half(weight, numbers, 1, d[1] * scale);
        } else {
            vi products = multiply_pairs(weight.v[0], load16(numbers));
            for (int i = 1; i < words; i++)
                products = add_pairs(products, weight.v[i], load16(numbers + i * S));
            lanes += __builtin_convertvector(products, vf) * splat(d[0] * scale);
        }
        if constexpr (Kind::offsets) offset += m[0] * x.sums[block];
    }

    FORCED void add_half(const Unit& weight, const int16_t* numbers, int half, float factor) {
        vi products{};
        if constexpr (words == 1) {
            for (int i = 0; i < W; i++) products[i] = i / (W / 2) == half ? -1 : 0;
            products &= multiply_pairs(weight.v[0], load16(numbers));
        } else {
            for (int i = half * words / 2; i < (half + 1) * words / 2; i++)
                products = add_pairs(products, weight.v[i], load16(numbers + i * S));
        }
        lanes += __builtin_convertvector(products, vf) * splat(factor);
    }
};

// Weights of blocks: rows of k numbers, k a multiple of what a block holds.
template <class Kind>
struct Blocked {
    const int64_t k, blocks = k / (unit * Kind::units), line_bytes = blocks * Kind::bytes;
    const RoundedRows x;

    Blocked(const float* x, int64_t n, int64_t k) : k(k), x(x, n, k) {}

    // Products of M lines of the weight with R rows.
    template <int M, int R>
    FORCED void multiply(const uint8_t* lines, int64_t row, float (&out)[M][R]) const {
        Sum<Kind> sums[M][R];
        RoundedRow rows[R];
        for (int r = 0; r < R; r++) rows[r] = x[row + r];
        for (int64_t b = 0; b < blocks; b++) {
            for (int i = 0; i < M; i++) {
                constexpr int each = Kind::halved ? 2 : 1;
                const uint8_t* block = lines + i * line_bytes + b * Kind::bytes;
                float d[Kind::units * each], m[Kind::units];
                Kind::scales(block, d, m);
                for (int u = 0; u < Kind::units; u++) {
                    const Unit weight = Kind::numbers(block, u);
                    for (int r = 0; r < R; r++)
                        sums[i][r].add(weight, d + u * each, m + u, rows[r], b * Kind::units + u);
                }
            }
        }
        for (int i = 0; i < M; i++)
            for (int r = 0; r < R; r++) out[i][r] = sum(sums[i][r].lanes) + sums[i][r].offset;
    }
};

// Weights of floats.
template <class Number>
struct Plain {
    const int64_t k, line_bytes = k * Number::bytes;
    const float* const x;

    Plain(const float* x, int64_t, int64_t k) : k(k), x(x) {}

    template <int M, int R>
    FORCED void multiply(const uint8_t* lines, int64_t row, float (&out)[M][R]) const {
        vf sums[M][R][2] = {};
        const float* rows = x + row * k;
        int64_t j = 0;
        for (; j + 2 * W <= k; j += 2 * W) {
            for (int i = 0; i < M; i++) {
                const uint8_t* at = lines + i * line_bytes + j * Number::bytes;
                const vf first = Number::numbers(at),
                         second = Number::numbers(at + W * Number::bytes);
                for (int r = 0; r < R; r++) {
                    sums[i][r][0] += first * load(rows + r * k + j);
                    sums[i][r][1] += second * load(rows + r * k + j + W);
                }
            }
        }
        over_vectors(j, k, [&](int64_t j, auto lanes) {
            for (int i = 0; i < M; i++) {
                const vf weight = some(lines + i * line_bytes + j * Number::bytes, lanes);
                for (int r = 0; r < R; r++) sums[i][r][0] += weight * load(rows + r * k + j, lanes);
            }
        });
        for (int i = 0; i < M; i++)
            for (int r = 0; r < R; r++) out[i][r] = sum(sums[i][r][0] + sums[i][r][1]);
    }

    INLINE vf some(const uint8_t* from, Whole) { return Number::numbers(from); }
    INLINE vf some(const uint8_t* from, First lanes) {
        uint8_t copy[W * Number::bytes] = {};
        memcpy(copy, from, lanes.count * Number::bytes);
        return Number::numbers(copy);
    }
};

struct Task {
    const uint8_t* blocks;
    const float *bias, *residual;
    int64_t n, m;
    float* out;

    template <int M, int R, class Weight>
    FORCED void run(const Weight& weight, int64_t line, int64_t row) const {
        float products[M][R];
        weight.template multiply<M, R>(blocks + line * weight.line_bytes, row, products);
        for (int r = 0; r < R; r++) {
            for (int i = 0; i < M; i++) {
                float result = products[i][r];
                const int64_t at = (row + r) * m + line + i;
                if (bias) result += bias[line + i];
                if (residual) result += residual[at];
                out[at] = result;
            }
        }
    }

    // Some lines of the weight with R rows, M lines at a time.
    template <int M, int R, class Weight>
    void run_lines(const Weight& weight, int64_t line, int64_t end, int64_t row) const {
        for (; line + M <= end; line += M) run<M, R>(weight, line, row);
        for (; line < end; line++) run<1, R>(weight, line, row);
    }
};

template <class Weight>
void multiply(const Task& task, const float* x, int64_t k) {
    const Weight weight(x, task.n, k);
    const int64_t each = larger(1, chunk_bytes / larger(1, weight.line_bytes) / 4) * 4;
    parallel_for(ceil_div(task.m, each), [&](int64_t chunk) {
        const int64_t first = chunk * each, end = smaller(task.m, first + each);
        for (int64_t line = first; line < end; line += 4) {
            const int64_t stop = smaller(end, line + 4);
            int64_t row = 0;
            for (; row + 4 <= task.n; row += 4) task.run_lines<1, 4>(weight, line, stop, row);
            if (task.n - row == 3) task.run_lines<1, 3>(weight, line, stop, row);
            if (task.n - row == 2) task.run_lines<2, 2>(weight, line, stop, row);
            if (task.n - row == 1) task.run_lines<4, 1>(weight, line, stop, row);
        }
    });
}

}  // namespace

void block_linear_forward(int kind, const uint8_t* blocks, const float* x, const float* bias,
                          const float* residual, int64_t n, int64_t m, int64_t k, float* out) {
    const Task task{blocks, bias, residual, n, m, out};
    switch (kind) {
        case 0:
            return multiply<Plain<F32>>(task, x, k);
        case 1:
            return multiply<Plain<F16>>(task, x, k);
        case 2:
            return multiply<Blocked<Q4_0>>(task, x, k);
        case 3:
            return multiply<Blocked<Q4_1>>(task, x, k);
        case 6:
            return multiply<Blocked<Q5_0>>(task, x, k);
        case 7:
            return multiply<Blocked<Q5_1>>(task, x, k);
        case 8:
            return multiply<Blocked<Q8_0>>(task, x, k);
        case 12:
            return multiply<Blocked<Q4_K>>(task, x, k);
        case 13:
            return multiply<Blocked<Q5_K>>(task, x, k);
        case 14:
            return multiply<Blocked<Q6_K>>(task, x, k);
        case 30:
            return multiply<Plain<BF16>>(task, x, k);
    }
}

}  // namespace minillm::MINILLM_ISA
