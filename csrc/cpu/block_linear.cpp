// Products with a weight that stays as it lies in a file. With few rows, all of them share one pass
// over the weight, which memory paces: its numbers, unpacked in registers, meet activations that
// are rounded to 16 bits, and sum up exactly within a block. Each element of the result is summed
// in an order of its own, so its bits depend neither on the other rows nor on threads.
#include "block_linear.h"

#include "amx.h"
#include "declare.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t chunk_bytes = 1 << 15;    // of the weight
constexpr int M = 4;                        // lines of the weight at once
constexpr int64_t fetched_ahead = 4096;     // bytes
constexpr int most_rows = W == 16 ? 4 : 2;  // that share what is unpacked

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

INLINE f8 splat_pair(const float* pair) {
#if defined(__AVX__)
    double both;
    memcpy(&both, pair, sizeof both);
    return (f8)_mm256_broadcast_sd(&both);
#else
    return f8{pair[0], pair[1], pair[0], pair[1], pair[0], pair[1], pair[0], pair[1]};
#endif
}

// Kinds of four bits have their numbers unpacked for two lines at once where vectors are that wide.
#if defined(__AVX512BW__)
template <class Kind>
constexpr bool by_two = std::is_same_v<Kind, Q4_0> || std::is_same_v<Kind, Q4_1>;

template <class Kind, int R>
ALWAYS void add_two(Kind, const uint8_t* one, const uint8_t* other, const RoundedRow (&rows)[R],
                    int64_t b, const float (&factors)[R][2 * M], int line, vf (&sums)[R]) {
    const UnitPair weight = Kind::numbers_of_two(one, other);
    for (int r = 0; r < R; r++) {
        const int16_t* x = rows[r].numbers + b * unit;
        const vi products =
            add_pairs(multiply_pairs(weight.first, twice(x)), weight.others, twice(x + S / 2));
        sums[r] += __builtin_convertvector(products, vf) *
                   two_splats(factors[r] + 2 * line, factors[r] + 2 * line + 2);
    }
}
#else
template <class Kind>
constexpr bool by_two = false;
#endif

// Weights of small blocks: lines of k numbers, k a multiple of 32.
template <class Kind>
struct Small {
    const int64_t blocks, ahead;
    const RoundedRows& x;

    Small(const BlockProduct& p, const RoundedRows& x)
        : blocks(p.k / unit), ahead(bytes_ahead(line_bytes<Kind>(p.k))), x(x) {}

    // Products of M lines of the weight with R rows.
    template <int R>
    ALWAYS void multiply(const uint8_t* const (&lines)[M], int64_t row, float (&out)[R][M]) const {
        RoundedRow rows[R];
        for (int r = 0; r < R; r++) rows[r] = x[row + r];
        vf sums[by_two<Kind> ? M / 2 : M][R] = {};
        f8 offsets[R] = {};
        for (int64_t b = 0; b < blocks; b++) {
            const uint8_t* at[M];
            for (int i = 0; i < M; i++) {
                at[i] = lines[i] + b * Kind::bytes;
                __builtin_prefetch(at[i] + ahead);
            }
            const f8 scales = Kind::offsets ? scales_with_offsets(at) : scales_alone(at);
            float factors[R][2 * M];
            for (int r = 0; r < R; r++) {
                f8 products = scales;
                if constexpr (Kind::offsets) {
                    products *= splat_pair(rows[r].pairs + 2 * b);
                    offsets[r] += products;
                } else {
                    products *= rows[r].scales[b];
                }
                memcpy(factors[r], &products, sizeof products);
                keep_in_memory(factors[r]);
            }
            if constexpr (by_two<Kind>) {
                for (int i = 0; i < M; i += 2)
                    add_two(Kind{}, at[i], at[i + 1], rows, b, factors, i, sums[i / 2]);
            } else {
                for (int i = 0; i < M; i++) {
                    const Unit weight = Kind::numbers(at[i]);
                    for (int r = 0; r < R; r++)
                        sums[i][r] += floats_of(weight, rows[r].numbers + b * unit) *
                                      splat(factors[r][2 * i]);
                }
            }
        }
        for (int r = 0; r < R; r++) {
            if constexpr (by_two<Kind>)
                sum_halves(sums[0][r], sums[1][r], out[r]);
            else
                for (int i = 0; i < M; i++) out[r][i] = sum(sums[i][r]);
            if constexpr (Kind::offsets)
                for (int i = 0; i < M; i++) out[r][i] += offsets[r][2 * i + 1];
        }
    }
};

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

// Up to M lines of the weight with R rows.
template <class Kind, int R>
void run(const BlockProduct& p, const Weight<Kind>& weight, int64_t line, int64_t end,
         int64_t row) {
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

template <class Kind, int R>
INLINE void run_rows(const BlockProduct& p, const Weight<Kind>& weight, int64_t line, int64_t end,
                     int64_t row) {
    for (; row + R <= p.n; row += R) run<Kind, R>(p, weight, line, end, row);
    if constexpr (R > 1) run_rows<Kind, R / 2>(p, weight, line, end, row);
}

// Lines of a portion.
int64_t lines_together(const BlockProduct& p) {
    int64_t bytes = 1;
    with_kind(p.kind, [&](auto type) {
        bytes = larger(1, line_bytes<typename decltype(type)::type>(p.k));
    });
    return larger(1, chunk_bytes / bytes / M) * M;
}

void multiply_few_rows(const BlockProduct* products, int64_t count) {
    bool rounds = false;
    for (int64_t i = 0; i < count; i++)
        with_kind(products[i].kind, [&](auto type) { rounds |= decltype(type)::type::units > 0; });
    const RoundedRows rounded(products->x, rounds ? products->n : 0, products->k);
    const auto portions = [](const BlockProduct& p) { return ceil_div(p.m, lines_together(p)); };
    over_portions(products, count, portions, [&](const BlockProduct& p, int64_t portion) {
        const int64_t each = lines_together(p), end = smaller(p.m, (portion + 1) * each);
        with_kind(p.kind, [&](auto type) {
            using Kind = typename decltype(type)::type;
            const Weight<Kind> weight(p, rounded);
            for (int64_t line = portion * each; line < end; line += M)
                run_rows<Kind, most_rows>(p, weight, line, end, 0);
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
