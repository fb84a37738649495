// Products of many rows with a weight that stays as blocks. The numbers of some lines are unpacked
// to 16 bits in the order in which the innermost product reads them, by pairs of depth; multiplied
// with rows that are rounded to 16 bits, they do twice the work of float32 in an instruction.
// Floats of other formats are widened, some lines at a time, for the product of float32, and so is
// all where that product is to round to bfloat16; those of float32 are multiplied where they lie.
#include "../parallel.h"
#include "../precision.h"
#include "block_linear.h"
#include "gemm.h"

namespace minillm::MINILLM_ISA {
namespace {

constexpr int64_t widened_floats = 1 << 19;
constexpr int64_t lines_together = 16;  // widened by a task
constexpr int64_t P = 2 * W;            // lines of a panel
constexpr int64_t panels_together = 2;  // of a task
constexpr int64_t rows_together = 64;   // that meet all panels of a task while they are near
constexpr int tile_rows = 4;

template <class Kind>
void widen_line(const uint8_t* line, int64_t k, float* out) {
    if constexpr (Kind::units == 0) {
        over_vectors(0, k, [&](int64_t j, auto lanes) {
            store(out + j, some<Kind>(line + j * Kind::bytes, lanes), lanes);
        });
    } else {
        over_units<Kind>(line, 0, k / unit, [&](int64_t u, const Unit& weight, float d, float m) {
            int16_t numbers[unit];
            memcpy(numbers, &weight, sizeof numbers);
            for (int i = 0; i < unit; i++)
                out[u * unit + i] = d * static_cast<float>(numbers[i]) + m;
        });
    }
}

// Lines of the weight that are floats.
void multiply_floats(const BlockProduct& p, const float* weight, int64_t first, int64_t lines) {
    const float* bias = p.bias ? p.bias + first : nullptr;
    Output result{p.out + first, p.m, {bias, 0}};
    if (p.residual) {
        result.start = {p.residual + first, p.m};
        if (bias) result.finish = Output::Finish::add_bias;
        result.bias = bias;
    }
    gemm(row_major(p.x, p.n, p.k), transposed(row_major(weight, lines, p.k)), result);
}

template <class Kind>
void multiply_widened(const BlockProduct& p) {
    if (std::is_same_v<Kind, F32> && reinterpret_cast<uintptr_t>(p.blocks) % sizeof(float) == 0)
        return multiply_floats(p, reinterpret_cast<const float*>(p.blocks), 0, p.m);
    const int64_t height = larger(lines_together, widened_floats / larger(1, p.k));
    const Scratch widened(smaller(height, p.m) * p.k);
    for (int64_t first = 0; first < p.m; first += height) {
        const int64_t lines = smaller(height, p.m - first);
        parallel_for(ceil_div(lines, lines_together), [&](int64_t chunk) {
            const int64_t begin = chunk * lines_together;
            for (int64_t i = begin; i < smaller(lines, begin + lines_together); i++)
                widen_line<Kind>(p.blocks + (first + i) * line_bytes<Kind>(p.k), p.k,
                                 widened + i * p.k);
        });
        multiply_floats(p, widened, first, lines);
    }
}

// Lines of the weight: for each unit 16 times a pair of numbers of each line, then d and m of each.
struct Panel {
    static constexpr int64_t numbers = unit * P, size = numbers / 2 + 2 * P;  // floats of a unit

    float* data;

    int16_t* numbers_of(int64_t u) const { return reinterpret_cast<int16_t*>(data + u * size); }
    float* scales_of(int64_t u) const { return data + u * size + numbers / 2; }
};

template <class Kind>
void pack(const BlockProduct& p, int64_t first, const Panel& panel) {
    const int64_t lines = smaller(P, p.m - first);
    if (lines < P) memset(panel.data, 0, sizeof(float) * Panel::size * (p.k / unit));
    for (int64_t i = 0; i < lines; i++) {
        const uint8_t* line = p.blocks + (first + i) * line_bytes<Kind>(p.k);
        over_units<Kind>(line, 0, p.k / unit, [&](int64_t u, const Unit& weight, float d, float m) {
            int32_t pairs[unit / 2];
            memcpy(pairs, &weight, sizeof pairs);
            auto* to = reinterpret_cast<int32_t*>(panel.numbers_of(u)) + i;
            for (int pair = 0; pair < unit / 2; pair++) to[pair * P] = pairs[pair];
            panel.scales_of(u)[i] = d;
            panel.scales_of(u)[P + i] = m;
        });
    }
}

INLINE vs splat_words(const int16_t* pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return (vs)splat(both);
}

// Products of R rows with the lines of a panel. Numbers of more than 8 bits might overflow in the
// sum of a unit: then it is taken in halves.
template <bool Offsets, int Parts, int R>
INLINE void multiply_tile(const Panel& panel, const RoundedRow (&rows)[R], int64_t units,
                          vf (&sums)[R][2]) {
    for (int64_t u = 0; u < units; u++) {
        const int16_t* numbers = panel.numbers_of(u);
        const float* scales = panel.scales_of(u);
        for (int part = 0; part < Parts; part++) {
            vi products[R][2] = {};
#pragma GCC unroll 1  // else gcc makes all products first, for which there are no registers
            for (int i = part * 16 / Parts; i < (part + 1) * 16 / Parts; i++) {
                const vs first = load16(numbers + i * 2 * P),
                         second = load16(numbers + i * 2 * P + S);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) {
                    const vs pair = splat_words(rows[r].numbers + u * unit + 2 * i);
                    products[r][0] = add_pairs(products[r][0], first, pair);
                    products[r][1] = add_pairs(products[r][1], second, pair);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const vf scale = splat(rows[r].scales[u]);
                for (int v = 0; v < 2; v++)
                    sums[r][v] += __builtin_convertvector(products[r][v], vf) *
                                  (load(scales + v * W) * scale);
            }
        }
        if constexpr (Offsets) {
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                for (int v = 0; v < 2; v++)
                    sums[r][v] += load(scales + P + v * W) * splat(rows[r].sums[u]);
        }
    }
}

template <class Kind, int R>
void multiply_rows(const BlockProduct& p, const RoundedRows& x, int64_t row, int64_t line,
                   const Panel& panel) {
    RoundedRow rows[R];
    for (int r = 0; r < R; r++) rows[r] = x[row + r];
    vf sums[R][2] = {};
    multiply_tile<Kind::offsets, Kind::wide ? 2 : 1, R>(panel, rows, p.k / unit, sums);
    for (int r = 0; r < R; r++) {
        for (int v = 0; v < 2; v++) {
            const int64_t col = line + v * W;
            over_vectors(col, smaller(p.m, col + W), [&](int64_t j, auto lanes) {
                const int64_t at = (row + r) * p.m + j;
                vf result = sums[r][v];
                if (p.bias) result += load(p.bias + j, lanes);
                if (p.residual) result += load(p.residual + at, lanes);
                store(p.out + at, result, lanes);
            });
        }
    }
}

template <class Kind>
void multiply_rounded(const BlockProduct& p) {
    const RoundedRows x(p.x, p.n, p.k);
    const int64_t panel_size = Panel::size * (p.k / unit), each = panels_together * P;
    parallel_for(ceil_div(p.m, each), [&](int64_t chunk) {
        const int64_t begin = chunk * each, end = smaller(p.m, begin + each);
        const Scratch memory(panels_together * panel_size);
        for (int64_t line = begin; line < end; line += P)
            pack<Kind>(p, line, Panel{memory + (line - begin) / P * panel_size});
        for (int64_t first = 0; first < p.n; first += rows_together) {
            const int64_t last = smaller(p.n, first + rows_together);
            for (int64_t line = begin; line < end; line += P) {
                const Panel panel{memory + (line - begin) / P * panel_size};
                int64_t row = first;
                for (; row + tile_rows <= last; row += tile_rows)
                    multiply_rows<Kind, tile_rows>(p, x, row, line, panel);
                for (; row < last; row++) multiply_rows<Kind, 1>(p, x, row, line, panel);
            }
        }
    });
    multiply_wild_rows(p, x);
}

}  // namespace

void multiply_wild_rows(const BlockProduct& p, const RoundedRows& x) {
    with_kind(p.kind, [&](auto type) {
        using Kind = typename decltype(type)::type;
        if constexpr (Kind::units > 0) {
            for (int64_t row = 0; row < p.n; row++) {
                if (x.finite(row)) continue;
                const float* residual = p.residual ? p.residual + row * p.m : nullptr;
                multiply_widened<Kind>({p.kind, p.blocks, p.x + row * p.k, p.bias, residual, 1, p.m,
                                        p.k, p.out + row * p.m});
            }
        }
    });
}

void multiply_many_rows(const BlockProduct* products, int64_t count) {
    for (const BlockProduct* p = products; p < products + count; p++) {
        with_kind(p->kind, [&](auto type) {
            using Kind = typename decltype(type)::type;
            if constexpr (Kind::units > 0) {
                if (!bf16_products()) return multiply_rounded<Kind>(*p);
            }
            multiply_widened<Kind>(*p);
        });
    }
}

}  // namespace minillm::MINILLM_ISA
