// W lines of a weight of small blocks meet up to 16 rows in tiles of whole numbers. A row's numbers
// are 256 times one signed byte plus another, and so is each sum of a block: the same as without
// tiles, bit for bit.
#pragma once

#include "amx.h"
#include "block_lines.h"

namespace minillm::MINILLM_ISA {

#if MINILLM_AMX

constexpr int64_t batch_rows = 16;

// How many rows make a batch with the next one, some of which may be missing; of so few as not to
// be worth it, none.
INLINE int64_t rows_of_batch(int64_t left) { return left > 8 ? 16 : left > 4 ? 8 : 0; }

// R rows: by unit the upper bytes of all rows, then the lower ones; their scales, then their sums.
template <int R>
struct Batch {
    const int8_t* bytes;
    const float* scales;

    const int8_t* bytes_of(int64_t u) const { return bytes + u * 2 * R * unit; }
    const float* scales_of(int64_t u) const { return scales + u * 2 * R; }
};

// Rows, batch by batch. What stands for a missing row is never looked at.
class Batches {
 public:
    Batches(int64_t rows, int64_t units)
        : rows_(rows),
          units_(units),
          memory_(ceil_div(rows, batch_rows) * batch_rows * floats_of_row * (units + 4)) {}
    void put(int64_t row, const RoundedRow& x) {
        const int64_t first = row / batch_rows * batch_rows, r = row - first;
        const int64_t R = rows_of_batch(rows_ - first);
        if (R == 0) return;
        float* to = memory_ + first * floats_of_row * (units_ + 4);
        auto* bytes = reinterpret_cast<int8_t*>(to);
        float* scales = to + R * units_ * unit / 2;
        for (int64_t u = 0; u < units_; u++) {
            int8_t* upper = bytes + (u * 2 * R + r) * unit;
            const vs numbers = load16(x.numbers + u * unit);
            put_low_bytes((numbers + 128) >> 8, upper);
            put_low_bytes(numbers, upper + R * unit);
            scales[u * 2 * R + r] = x.scales[u];
            scales[u * 2 * R + R + r] = x.sums[u];
        }
    }
    template <int R>
    Batch<R> at(int64_t row) const {
        const float* from = memory_ + row * floats_of_row * (units_ + 4);
        return {reinterpret_cast<const int8_t*>(from), from + R * units_ * unit / 2};
    }

 private:
    static constexpr int64_t floats_of_row = unit / 2 + 2;  // in a unit; four more are read

    INLINE void put_low_bytes(vs numbers, int8_t* to) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm512_maskz_cvtepi16_epi8(~0u, (__m512i)numbers));
    }

    const int64_t rows_, units_;
    const Scratch memory_;
};

// The numbers of a block of each line as a tile: by fours of depth, line beside line.
template <class Kind>
ALWAYS void put_numbers(const LineGroup& lines, int64_t block, uint8_t* to) {
    const auto put = [&](int four, vi numbers) __attribute__((always_inline)) {
        memcpy(to + four * 64, &numbers, sizeof numbers);
    };
    vi found[4];
    if constexpr (Kind::kind == Q8_0::kind) {
        for (int part = 0; part < 2; part++) {
            lines.words(block + 2 + 16 * part, found);
            for (int i = 0; i < 4; i++) put(4 * part + i, found[i]);
        }
    } else {
        typedef int8_t bytes __attribute__((vector_size(4 * W)));
        constexpr bool five = Kind::bytes - unit / 2 > 4;
        constexpr int8_t middle = Kind::offsets ? 0 : five ? 16 : 8;
        vi fifth{};
        if constexpr (five) fifth = lines.word(block + Kind::bytes - 20);
        lines.words(block + Kind::bytes - 16, found);
        for (int i = 0; i < 8; i++) {
            vi numbers = (i < 4 ? found[i % 4] : found[i % 4] >> 4) & 0x0f0f0f0f;
            if constexpr (five) {
                const vi four = fifth >> (4 * i) & 15;  // a bit for each byte
                numbers |= (four << 4 & 0x10) | (four << 11 & 0x1000) | (four << 18 & 0x100000) |
                           (four << 25 & 0x10000000);
            }
            if constexpr (middle != 0) numbers = (vi)((bytes)numbers - middle);
            put(i, numbers);
        }
    }
}

// Blocks that are under way together, so that none waits for the one before: their sums fill four
// tiles.
template <int R>
constexpr int together = R == 16 ? 2 : 4;

// The tiles' shapes for R rows: four of sums, two of rows, two of a weight.
template <int R>
class BatchScope {
 public:
    BatchScope() {
        constexpr uint8_t rows = R < 16 ? 2 * R : 16;
        for (int tile = 0; tile < 8; tile++) {
            shapes_.rows[tile] = tile < 6 ? rows : unit / 4;
            shapes_.row_bytes[tile] = tile == 4 || tile == 5 ? unit : 64;
        }
        asm volatile("ldtilecfg %0" : : "m"(shapes_));
    }
    ~BatchScope() { asm volatile("tilerelease"); }
    BatchScope(const BatchScope&) = delete;
    BatchScope& operator=(const BatchScope&) = delete;

 private:
    TileShapes shapes_;
};

#define MINILLM_BYTES(c, a, b, rows, weight) \
    MINILLM_TILE_ZERO(c);                    \
    MINILLM_TILE_LOAD(b, weight, 64);        \
    MINILLM_TILE_LOAD(a, rows, unit);        \
    MINILLM_TILE_PRODUCT_OF_BYTES(c, a, b)

// Sums of the products of some blocks with the bytes of R rows.
template <int R>
INLINE void multiply_bytes(const int8_t* rows, const uint8_t* weight, int32_t* sums) {
    constexpr int64_t next = 2 * R * unit, size = unit * W;
    if constexpr (R == 16) {
        MINILLM_BYTES(0, 4, 6, rows, weight);
        MINILLM_TILE_ZERO(1);
        MINILLM_TILE_LOAD(5, rows + next / 2, unit);
        MINILLM_TILE_PRODUCT_OF_BYTES(1, 5, 6);
        MINILLM_BYTES(2, 4, 7, rows + next, weight + size);
        MINILLM_TILE_ZERO(3);
        MINILLM_TILE_LOAD(5, rows + next + next / 2, unit);
        MINILLM_TILE_PRODUCT_OF_BYTES(3, 5, 7);
    } else {
        MINILLM_BYTES(0, 4, 6, rows, weight);
        MINILLM_BYTES(1, 5, 7, rows + next, weight + size);
        MINILLM_BYTES(2, 4, 6, rows + 2 * next, weight + 2 * size);
        MINILLM_BYTES(3, 5, 7, rows + 3 * next, weight + 3 * size);
    }
    constexpr int64_t tile = (R < 16 ? 2 * R : 16) * W;
    MINILLM_TILE_STORE(0, sums, 64);
    MINILLM_TILE_STORE(1, sums + tile, 64);
    MINILLM_TILE_STORE(2, sums + 2 * tile, 64);
    MINILLM_TILE_STORE(3, sums + 3 * tile, 64);
}

// Products of the lines with a batch of rows, `blocks` blocks deep.
template <class Kind, int R>
ALWAYS void multiply_lines(const LineGroup& lines, int64_t blocks, const Batch<R>& x,
                           vf (&sums)[R]) {
    constexpr int G = together<R>;
    alignas(64) uint8_t weight[2][G * unit * W];
    alignas(64) int32_t products[2][G * 2 * R * W];
    vf scales[2][G], offsets[2][G];
    for (int r = 0; r < R; r++) sums[r] = vf{};
    const auto begin = [&](int64_t first) __attribute__((always_inline)) {
        const int turn = first / G % 2;
        for (int g = 0; g < G; g++) {
            const int64_t block = smaller(first + g, blocks - 1) * Kind::bytes;
            lines.fetch_next(block, Kind::bytes);
            put_numbers<Kind>(lines, block, weight[turn] + g * unit * W);
            const vi both = lines.word(block);
            scales[turn][g] = low_halves(both);
            if constexpr (Kind::offsets) offsets[turn][g] = low_halves((vi)((vu)both >> 16));
        }
        multiply_bytes<R>(x.bytes_of(first), weight[turn], products[turn]);
    };
    const auto finish = [&](int64_t b) __attribute__((always_inline)) {
        const int turn = b / G % 2;
        const int g = b % G;
        const int32_t* from = products[turn] + g * 2 * R * W;
        const float* factors = x.scales_of(b);
        for (int r = 0; r < R; r++) {
            vi upper, lower;
            memcpy(&upper, from + r * W, sizeof upper);
            memcpy(&lower, from + (R + r) * W, sizeof lower);
            sums[r] += __builtin_convertvector((upper << 8) + lower, vf) *
                       (scales[turn][g] * splat(factors[r]));
            if constexpr (Kind::offsets) sums[r] += offsets[turn][g] * splat(factors[R + r]);
        }
    };
    if (blocks > 0) begin(0);
    for (int64_t first = 0; first < blocks; first += G) {
        if (first + G < blocks) begin(first + G);
        for (int64_t b = first; b < smaller(blocks, first + G); b++) finish(b);
    }
}

#endif

}  // namespace minillm::MINILLM_ISA
