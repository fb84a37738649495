// Products of many rows with a weight that stays as blocks, by tiles of bfloat16. A number is the
// sum of two of them, which keeps 16 bits of it; the product of the lower parts is less than what
// is lost anyway, and left out. The tiles leave the vector units idle: these unpack meanwhile the
// lines that come next, and write the sums that came before.
#include "../parallel.h"
#include "../precision.h"
#include "../scratch.h"
#include "bf16_corner.h"
#include "block_operands.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

namespace {

constexpr int64_t deepest = 9;          // units of a slice: its tiles stay in the first cache
constexpr int64_t most_panels = 12;     // of a task, 32 lines each
constexpr int64_t rows_together = 512;  // whose sums a task holds
constexpr int64_t corner = pair * pair;

// Adds the product of 32 lines and 32 rows, `units` deep, to sums (32, 32). meanwhile() runs after
// every other product of tiles.
template <int WeightParts, int RowParts, class Meanwhile>
INLINE void multiply_corner(const uint16_t* above, int64_t below, const uint16_t* left,
                            int64_t right, int64_t units, bool first, float* sums,
                            const Meanwhile& meanwhile) {
    const Output at{sums, pair, first ? Strided{} : Strided{sums, pair}};
    load_corner<2, 2>(at);
    const auto multiply = [&] {
        MINILLM_TILE_PRODUCT(0, 4, 6);
        MINILLM_TILE_PRODUCT(1, 4, 7);
        meanwhile();
        MINILLM_TILE_PRODUCT(2, 5, 6);
        MINILLM_TILE_PRODUCT(3, 5, 7);
        meanwhile();
    };
    for (int64_t u = 0; u < units; u++) {
        MINILLM_TILE_STREAM(6, left, 64);
        MINILLM_TILE_STREAM(7, left + right, 64);
        if constexpr (WeightParts > 1) {
            MINILLM_TILE_LOAD(4, above + tile_numbers, 64);
            MINILLM_TILE_LOAD(5, above + below + tile_numbers, 64);
            multiply();
        }
        MINILLM_TILE_LOAD(4, above, 64);
        MINILLM_TILE_LOAD(5, above + below, 64);
        multiply();
        if constexpr (RowParts > 1) {
            MINILLM_TILE_STREAM(6, left + tile_numbers, 64);
            MINILLM_TILE_STREAM(7, left + right + tile_numbers, 64);
            multiply();
        }
        above += WeightParts * tile_numbers;
        left += RowParts * tile_numbers;
    }
    store_corner<2, 2>(at);
}

// Sums (32 lines, 32 rows) on their way to the result, a quarter at a time.
struct Sums {
    const float* data;
    int64_t line, row;
    int quarters = 0;  // that are to be written

    void write(const BlockProduct& p) {
        quarters--;
        const int64_t i = quarters / 2 * W, j = quarters % 2 * W;
        if (line + i >= p.m || row + j >= p.n) return;
        vf block[W];
        for (int k = 0; k < W; k++) block[k] = load(data + (i + k) * pair + j);
        transpose(block);
        for (int64_t k = 0; k < smaller(W, p.n - row - j); k++)
            over_vectors(line + i, smaller(p.m, line + i + W), [&](int64_t l, auto lanes) {
                const int64_t at = (row + j + k) * p.m + l;
                vf result = block[k];
                if (p.bias) result += load(p.bias + l, lanes);
                if (p.residual) result += load(p.residual + at, lanes);
                store(p.out + at, result, lanes);
            });
    }
};

// The lines of some panels with all rows, on one thread.
template <class Kind, int WeightParts, int RowParts>
class Task {
 public:
    Task(const BlockProduct& p, const Operand<RowParts>& x, int64_t line, int64_t panels,
         int64_t slice)
        : p_(p),
          x_(x),
          line_(line),
          panels_(panels),
          slice_(slice),
          slices_(ceil_div(x.units, slice)),
          weight_(2 * Operand<WeightParts>::floats(pair, slice)),
          sums_(slices_ == 1 ? 2 * corner
                             : panels * ceil_div(smaller(p.n, rows_together), pair) * corner) {}

    void run() {
        const TileScope scope;
        for (int64_t top = 0; top < p_.n; top += rows_together) {
            const int64_t corners = ceil_div(smaller(p_.n - top, rows_together), pair);
            Unpacking<Kind, WeightParts> first = unpacking(0);
            for (int64_t i = first.pieces(); i > 0; i--) first.next();
            for (int64_t i = 0; i < slices_ * panels_; i++) multiply_panel(i, top, corners);
            while (before_.quarters > 0) before_.write(p_);
        }
    }

 private:
    static constexpr int64_t pauses = 2 * (WeightParts + RowParts - 1);  // of a step of depth

    int64_t depth_of(int64_t i) const { return smaller(slice_, x_.units - i / panels_ * slice_); }
    uint16_t* memory_of(int64_t i) const {
        return as_numbers(weight_ + i % 2 * Operand<WeightParts>::floats(pair, slice_));
    }
    Unpacking<Kind, WeightParts> unpacking(int64_t i) const {
        return {p_, line_ + i % panels_ * pair, i / panels_ * slice_, depth_of(i), memory_of(i)};
    }

    // Slice i / panels of panel i % panels with rows from `top` on; the next is unpacked meanwhile.
    void multiply_panel(int64_t i, int64_t top, int64_t corners) {
        const int64_t deep = depth_of(i), u = i / panels_ * slice_, panel = i % panels_;
        const Operand<WeightParts> weight{memory_of(i), deep};
        Unpacking<Kind, WeightParts> next = unpacking(i + 1);
        const int64_t rate = i + 1 < slices_ * panels_ ? next.pieces() : 0;
        const int64_t quarter = deep * pauses / 4, all = corners * deep * pauses;
        int64_t due = 0;
        for (int64_t c = 0; c < corners; c++) {
            const int64_t place = slices_ == 1 ? turn_++ % 2 : panel * corners + c;
            const int64_t row = top + c * pair;
            float* at = sums_ + place * corner;
            int64_t wait = quarter;
            multiply_corner<WeightParts, RowParts>(weight.at(0, 0), weight.stride(), x_.at(row, u),
                                                   x_.stride(), deep, u == 0, at, [&] {
                                                       for (due += rate; due >= all; due -= all)
                                                           next.next();
                                                       if (--wait > 0) return;
                                                       wait = quarter;
                                                       if (before_.quarters > 0) before_.write(p_);
                                                   });
            while (before_.quarters > 0) before_.write(p_);
            if (u + deep == x_.units) before_ = {at, line_ + panel * pair, row, 4};
        }
    }

    const BlockProduct& p_;
    const Operand<RowParts>& x_;
    const int64_t line_, panels_, slice_, slices_;
    const Scratch weight_, sums_;
    Sums before_{};
    int64_t turn_ = 0;
};

template <class Kind, int WeightParts, int RowParts>
void multiply_panels(const BlockProduct& p, const Operand<RowParts>& x, int64_t first,
                     int64_t panels) {
    constexpr int64_t piece = Unpacking<Kind, WeightParts>::piece;
    const int64_t slices = ceil_div(x.units, deepest);
    const int64_t slice = ceil_div(ceil_div(x.units, slices), piece) * piece;
    Task<Kind, WeightParts, RowParts>(p, x, first * pair, panels, slice).run();
}

int64_t panels_of(const BlockProduct& p) { return ceil_div(p.m, pair); }

template <int RowParts>
void multiply(const BlockProduct* products, int64_t count) {
    const int64_t n = products->n, units = ceil_div(products->k, unit);
    const Scratch packed(Operand<RowParts>::floats(n, units));
    const Operand<RowParts> x{as_numbers(packed), units};
    parallel_for(ceil_div(n, tile_lines),
                 [&](int64_t group) { put_columns(*products, group * tile_lines, x); });
    int64_t panels = 0;
    for (int64_t i = 0; i < count; i++) panels += panels_of(products[i]);
    const int64_t each = larger(1, smaller(most_panels, ceil_div(panels, 4 * thread_count())));
    const auto portions = [=](const BlockProduct& p) { return ceil_div(panels_of(p), each); };
    over_portions(products, count, portions, [&](const BlockProduct& p, int64_t portion) {
        const int64_t first = portion * each, own = smaller(each, panels_of(p) - first);
        with_kind(p.kind, [&](auto type) {
            using Kind = typename decltype(type)::type;
            constexpr int parts = std::is_same_v<Kind, BF16> ? 1 : RowParts;
            if constexpr (!std::is_same_v<Kind, F32>)
                multiply_panels<Kind, parts, RowParts>(p, x, first, own);
        });
    });
}

}  // namespace

void multiply_by_tiles(const BlockProduct* products, int64_t count) {
    if (bf16_products()) return multiply<1>(products, count);
    multiply<2>(products, count);
}

#endif

}  // namespace minillm::MINILLM_ISA
