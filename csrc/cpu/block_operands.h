// Operands of a product by tiles of bfloat16 whose numbers keep 16 bits: each is the sum of two.
#pragma once

#include "bf16.h"
#include "block_linear.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

// 32 numbers, each of the first 16 beside one of the others, rounded to bfloat16; and with a second
// part what that leaves of them: infinity and NaN, if they are `wild`.
template <int Parts, bool wild>
INLINE void split(const vf (&numbers)[2], vi (&parts)[Parts]) {
    if constexpr (Parts == 1) {
        parts[0] = (vi)round_and_pair(numbers[0], numbers[1]);
    } else {
        constexpr int32_t upper = static_cast<int32_t>(0xffff0000), half = 0x8000;
        const auto near = [](vf v) { return (vi)(wild ? bounded(v) : v) + half; };
        const vi bits[2] = {near(numbers[0]), near(numbers[1])};
        const vi rounded[2] = {bits[0] & upper, bits[1] & upper};
        parts[0] = (vi)((vu)bits[0] >> 16) | rounded[1];
        const vi first = (vi)(numbers[0] - (vf)rounded[0]),
                 second = (vi)(numbers[1] - (vf)rounded[1]);
        parts[1] = (vi)((vu)first >> 16) | (second & upper);
    }
}

// For each 16 lines of an operand, by depth, a tile of each part.
template <int Parts>
struct Operand {
    uint16_t* memory;
    int64_t units;  // of depth

    static int64_t floats(int64_t lines, int64_t units) {
        return ceil_div(lines, pair) * pair * units * unit * Parts / 2;
    }
    uint16_t* at(int64_t line, int64_t u) const {
        return memory + (line / tile_lines * units + u) * Parts * tile_numbers;
    }
    int64_t stride() const { return units * Parts * tile_numbers; }  // between 16 lines
};

// The numbers of some units as rows of their tiles, of which `to` is the first.
template <int Parts, bool wild = false>
INLINE void put_unit(const vf (&numbers)[2], uint16_t* to) {
    vi parts[Parts];
    split<Parts, wild>(numbers, parts);
    for (int part = 0; part < Parts; part++)
        store(reinterpret_cast<float*>(to + part * tile_numbers), (vf)parts[part]);
}

template <class Number>
INLINE vf some_numbers(const uint8_t* from, int64_t count) {
    if (count >= W) return Number::numbers(from);
    return count > 0 ? some<Number>(from, First{count}) : vf{};
}

// Units [first, first + count) of a line of k numbers.
template <class Kind, int Parts>
INLINE void put_units(const uint8_t* line, int64_t k, int64_t first, int64_t count, uint16_t* to) {
    constexpr int64_t step = Parts * tile_numbers;
    if constexpr (Kind::units == 0) {
        for (int64_t i = 0; i < count; i++) {
            const int64_t j = (first + i) * unit;
            const uint8_t* from = line + j * Kind::bytes;
            put_unit<Parts, true>({some_numbers<Kind>(from, k - j),
                                   some_numbers<Kind>(from + W * Kind::bytes, k - j - W)},
                                  to + i * step);
        }
    } else {
        over_units<Kind>(line, first, count, [&](int64_t u, const Unit& weight, float d, float m) {
            typedef int16_t half __attribute__((vector_size(2 * W)));
            half halves[2];
            memcpy(halves, &weight, sizeof halves);
            const auto floats = [&](half words) {
                return __builtin_convertvector(words, vf) * d + m;
            };
            put_unit<Parts>({floats(halves[0]), floats(halves[1])}, to + (u - first) * step);
        });
    }
}

// 16 rows of x become columns of the product.
template <int Parts>
INLINE void put_columns(const BlockProduct& p, int64_t row, const Operand<Parts>& to) {
    uint16_t* tile = to.at(row, 0);
    for (int64_t i = 0; i < smaller(W, p.n - row); i++)
        put_units<F32, Parts>(reinterpret_cast<const uint8_t*>(p.x + (row + i) * p.k), p.k, 0,
                              to.units, tile + i * unit);
    for (; tile < to.at(row + tile_lines, 0); tile += tile_numbers) {
        auto* memory = reinterpret_cast<float*>(tile);
        vf rows[W];
        for (int i = 0; i < W; i++) rows[i] = load(memory + i * W);
        transpose(rows);
        for (int i = 0; i < W; i++) store(memory + i * W, rows[i]);
    }
}

// 32 lines of a weight, some units of them, become an operand's tiles, a little at a time.
template <class Kind, int Parts>
class Unpacking {
 public:
    static constexpr int64_t piece = Kind::units > 1 ? Kind::units : 1;  // units unpacked together

    Unpacking(const BlockProduct& p, int64_t line, int64_t first, int64_t units, uint16_t* to)
        : p_(p),
          first_(first),
          to_{to, units},
          lines_(smaller(pair, p.m - line)),
          blocks_(p.blocks + line * line_bytes<Kind>(p.k)) {}

    int64_t pieces() const { return lines_ * (to_.units / piece); }
    void next() {
        put_units<Kind, Parts>(blocks_, p_.k, first_ + unit_, piece,
                               to_.at(line_, unit_) + line_ % tile_lines * unit);
        unit_ += piece;
        if (unit_ < to_.units) return;
        unit_ = 0;
        line_++;
        blocks_ += line_bytes<Kind>(p_.k);
    }

 private:
    const BlockProduct& p_;
    const int64_t first_;
    const Operand<Parts> to_;
    const int64_t lines_;
    const uint8_t* blocks_;  // the line's
    int64_t line_ = 0, unit_ = 0;
};

#endif

}  // namespace minillm::MINILLM_ISA
