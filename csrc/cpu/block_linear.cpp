// Products with a weight that stays as it lies in a file. With few rows, all of them share one pass
// over the weight, which memory paces: its numbers, unpacked in registers, meet activations that
// are rounded to 16 bits, and sum up exactly within a block. Each element of the result is summed
// in an order of its own, so its bits depend neither on the other rows nor on threads.
#include "block_linear.h"

#include "amx.h"
#include "declare.h"
#include "line_tiles.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t chunk_bytes = 1 << 15;  // of the weight
constexpr int M = 4;                      // lines of the weight at once
constexpr int64_t fetched_ahead = 4096;   // bytes

// How far ahead the lines lie that are fetched while M are multiplied, some groups of M on: each
// line is too short for the processor to foresee the next.
int64_t bytes_ahead(int64_t line_bytes) {
    const int64_t group = larger(1, M * line_bytes);
    return ceil_div(fetched_ahead, group) * group;
}

template <class Lines>
ALWAYS void keep_in_memory(Lines& lines) {  // to read single elements of vectors from there
    __asm__("" : "+m"(lines));
}

INLINE vf floats_of(const Unit& weight, const int16_t* x) {
    vi products = multiply_pairs(weight.v[0], load16(x));
    for (int i = 1; i < words; i++) products = add_pairs(products, weight.v[i], load16(x + i * S));
    return __builtin_convertvector(products, vf);
}

// Calls f with W lines of the weight from `line` on; those beyond its end are 0.
template <class Kind, class F>
INLINE void with_lines(const BlockProduct& p, int64_t line, int64_t end, const F& f) {
    const int64_t bytes = line_bytes<Kind>(p.k);
    const uint8_t* first = p.blocks + line * bytes;
    if (end - line >= W) return f(LineGroup(first, bytes));
    const Scratch filled(ceil_div(W * bytes, sizeof(float)));
    auto* copy = reinterpret_cast<uint8_t*>(static_cast<float*>(filled));
    memset(copy, 0, W * bytes);
    memcpy(copy, first, (end - line) * bytes);
    f(LineGroup(copy, bytes));
}

// The results of a row and the lines [line, end), W at most.
INLINE void put_results(const BlockProduct& p, int64_t row, int64_t line, int64_t end, vf sums) {
    over_vectors(line, smaller(end, line + W), [&](int64_t j, auto lanes) {
        const int64_t at = row * p.m + j;
        vf result = sums;
        if (p.bias) result += load(p.bias + j, lanes);
        if (p.residual) result += load(p.residual + at, lanes);
        store(p.out + at, result, lanes);
    });
}

// Weights of small blocks: lines of k numbers, k a multiple of 32.
template <class Kind>
struct Small {
    const BlockProduct& p;
    const RoundedRows& x;

    // Up to W lines from `line` on with R rows.
    template <int R>
    void multiply(int64_t line, int64_t end, int64_t row) const {
        with_lines<Kind>(p, line, end, [&](const LineGroup& lines) {
            RoundedRow rows[R];
            for (int r = 0; r < R; r++) rows[r] = x[row + r];
            vf sums[R];
            multiply_lines<Kind, R>(lines, p.k / unit, rows, sums);
            for (int r = 0; r < R; r++) put_results(p, row + r, line, end, sums[r]);
        });
    }
};

#if MINILLM_AMX
template <class Kind, int R>
void run_batch(const BlockProduct& p, const Batches& batches, int64_t line, int64_t end,
               int64_t row) {
    const Batch<R> x = batches.at<R>(row);
    const BatchScope<R> scope;
    for (; line < end; line += W) {
        with_lines<Kind>(p, line, end, [&](const LineGroup& lines) {
            vf sums[R];
            multiply_lines<Kind, R>(lines, p.k / unit, x, sums);
            for (int r = 0; r < R && row + r < p.n; r++)
                put_results(p, row + r, line, end, sums[r]);
        });
    }
}

// How many of the first rows are done.
template <class Kind>
int64_t run_batches(const BlockProduct& p, const Batches& batches, int64_t line, int64_t end) {
    int64_t row = 0;
    for (; rows_of_batch(p.n - row) == 16; row += 16)
        run_batch<Kind, 16>(p, batches, line, end, row);
    if (rows_of_batch(p.n - row) != 8) return row;
    run_batch<Kind, 8>(p, batches, line, end, row);
    return p.n;
}
#endif

// Weights of large blocks: lines of k numbers, k a multiple of 256.
template <class Kind>
struct Large {
    const int64_t blocks;
    const RoundedRows& x;

    Large(const BlockProduct& p, const RoundedRows& x) : blocks(p.k / (8 * unit)), x(x) {}

    template <int R>
    ALWAYS void multiply(const uint8_t* const (&lines)[M], int64_t row, float (&out)[R][M]) const {
        RoundedRow rows[R];
        for (int r = 0; r < R; r++) rows[r] = x[row + r];
        for (int i = 0; i < M; i++) {
            vf sums[R] = {};
            f8 offsets[R] = {};
            for (int64_t b = 0; b < blocks; b++) {
                const Kind block(lines[i] + b * Kind::bytes);
                float factors[R][8];
                for (int r = 0; r < R; r++) {
                    const f8 products = block.d * load8(rows[r].scales + 8 * b);
                    if constexpr (Kind::offsets)
                        offsets[r] += block.m * load8(rows[r].sums + 8 * b);
                    memcpy(factors[r], &products, sizeof products);
                    keep_in_memory(factors[r]);
                }
#pragma GCC unroll 8
                for (int u = 0; u < 8; u++) {
                    const Unit weight = block.numbers(u);
                    for (int r = 0; r < R; r++)
                        sums[r] += floats_of(weight, rows[r].numbers + (8 * b + u) * unit) *
                                   splat(factors[r][u]);
                }
            }
            for (int r = 0; r < R; r++) {
                const f8 o = offsets[r];
                out[r][i] =
                    sum(sums[r]) + ((o[0] + o[1] + (o[2] + o[3])) + (o[4] + o[5] + (o[6] + o[7])));
            }
        }
    }
};

// Weights of floats.
template <class Number>
struct Plain {
    const int64_t k, ahead;
    const float* const x;

    Plain(const BlockProduct& p, const RoundedRows&)
        : k(p.k), ahead(bytes_ahead(line_bytes<Number>(p.k))), x(p.x) {}

    template <int R>
    ALWAYS void multiply(const uint8_t* const (&lines)[M], int64_t row, float (&out)[R][M]) const {
        vf sums[M][R][2] = {};
        const float* rows = x + row * k;
        int64_t j = 0;
        for (; j + 2 * W <= k; j += 2 * W) {
            for (int i = 0; i < M; i++) {
                const uint8_t* at = lines[i] + j * Number::bytes;
                __builtin_prefetch(at + ahead);
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
                const vf weight = some<Number>(lines[i] + j * Number::bytes, lanes);
                for (int r = 0; r < R; r++) sums[i][r][0] += weight * load(rows + r * k + j, lanes);
            }
        });
        for (int i = 0; i < M; i++)
            for (int r = 0; r < R; r++) out[r][i] = sum(sums[i][r][0] + sums[i][r][1]);
    }
};
template <class Kind>
using Weight = std::conditional_t<Kind::units == 0, Plain<Kind>,
                                  std::conditional_t<Kind::units == 1, Small<Kind>, Large<Kind>>>;

// Lines of the weight that are multiplied together, and the rows that share what is unpacked.
template <class Kind>
constexpr int lines_of = Kind::units == 1 ? W : M;
template <class Kind>
constexpr int most_rows = W == 4             ? 2
                          : Kind::units == 1 ? W / 2
                                             : W / 4;

// Up to `lines_of` lines of the weight with R rows.
template <class Kind, int R>
void run(const BlockProduct& p, const Weight<Kind>& weight, int64_t line, int64_t end,
         int64_t row) {
    if constexpr (Kind::units == 1) {
        weight.template multiply<R>(line, end, row);
    } else {
        const uint8_t* lines[M];
        for (int i = 0; i < M; i++)
            lines[i] = p.blocks + smaller(line + i, end - 1) * line_bytes<Kind>(p.k);
        float products[R][M];
        weight.template multiply<R>(lines, row, products);
        for (int r = 0; r < R; r++) {
            for (int i = 0; i < smaller(M, end - line); i++) {
                float result = products[r][i];
                const int64_t at = (row + r) * p.m + line + i;
                if (p.bias) result += p.bias[line + i];
                if (p.residual) result += p.residual[at];
                p.out[at] = result;
            }
        }
    }
}

template <class Kind, int R>
INLINE void run_rows(const BlockProduct& p, const Weight<Kind>& weight, int64_t line, int64_t end,
                     int64_t row) {
    for (; row + R <= p.n; row += R) run<Kind, R>(p, weight, line, end, row);
    if constexpr (R > 1) run_rows<Kind, R / 2>(p, weight, line, end, row);
}

// Lines of a portion.
int64_t lines_together(const BlockProduct& p) {
    int64_t lines = 1;
    with_kind(p.kind, [&](auto type) {
        using Kind = typename decltype(type)::type;
        constexpr int group = lines_of<Kind>;
        lines = larger(1, chunk_bytes / larger(1, line_bytes<Kind>(p.k)) / group) * group;
    });
    return lines;
}

void multiply_few_rows(const BlockProduct* products, int64_t count) {
    bool rounds = false, small = false;
    for (int64_t i = 0; i < count; i++) {
        with_kind(products[i].kind, [&](auto type) {
            rounds |= decltype(type)::type::units > 0;
            small |= decltype(type)::type::units == 1;
        });
    }
    const int64_t n = products->n, k = products->k;
    RoundedRows rounded(rounds ? n : 0, k);
#if MINILLM_AMX
    Batches batches(small ? n : 0, k / unit);
#endif
    parallel_for(rounds ? n : 0, [&](int64_t row) {
        rounded.put(row, products->x + row * k);
#if MINILLM_AMX
        if (small) batches.put(row, rounded[row]);
#endif
    });
    const auto portions = [](const BlockProduct& p) { return ceil_div(p.m, lines_together(p)); };
    over_portions(products, count, portions, [&](const BlockProduct& p, int64_t portion) {
        const int64_t each = lines_together(p), end = smaller(p.m, (portion + 1) * each);
        with_kind(p.kind, [&](auto type) {
            using Kind = typename decltype(type)::type;
            int64_t first = portion * each, row = 0;
#if MINILLM_AMX
            if constexpr (Kind::units == 1) row = run_batches<Kind>(p, batches, first, end);
#endif
            if (row >= p.n) return;
            const Weight<Kind> weight{p, rounded};
            for (int64_t line = first; line < end; line += lines_of<Kind>)
                run_rows<Kind, most_rows<Kind>>(p, weight, line, end, row);
        });
    });
    for (int64_t i = 0; i < count; i++) multiply_wild_rows(products[i], rounded);
}

}  // namespace

void block_linear_forward(const BlockProduct* products, int64_t count) {
    if (products->n < many_rows) return multiply_few_rows(products, count);
#if MINILLM_AMX
    bool suits = products->k > 0;
    for (int64_t i = 0; i < count; i++) suits &= products[i].kind != 0;
    if (suits) return multiply_by_tiles(products, count);
#endif
    multiply_many_rows(products, count);
}

}  // namespace minillm::MINILLM_ISA
