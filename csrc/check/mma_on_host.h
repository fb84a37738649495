// What cuda/mma.h declares, for kernels that run on the host. Half of the copies, drawn by chance,
// happen when they are asked for, the others when they are waited for: a barrier that is missing
// before the one or a wait before the other shows.
#pragma once

#include <deque>
#include <vector>

#include "cuda_on_host.h"

namespace minillm::device {

inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float cut_tf32(uint32_t bits) { return float_of_bits(bits & 0xffffe000u); }

inline float half_of(uint32_t pair, int which) {
    return float_of_bits(which ? pair & 0xffff0000u : pair << 16);
}

// The operands of a product as a lane gives them: its registers.
template <int count>
struct Registers {
    uint32_t a[count][4], b[count][2];
};

// A product of a warp: found by the first of its lanes to go on, all of which go on before another
// product is complete.
struct Product {
    const on_host::Slot* slots = nullptr;
    int left = 0;
    float sums[16][8];

    // The lane's part of what add() finds, if no other has called it.
    template <class Add>
    void give(float (&c)[4], const on_host::Slot* from, const Add& add) {
        if (left == 0 || slots != from) {
            slots = from;
            left = warp_size;
            memset(sums, 0, sizeof sums);
            add();
        }
        left--;
        const int g = on_host::lane() / 4, t = on_host::lane() % 4;
        for (int i = 0; i < 4; i++) c[i] += sums[g + i / 2 * 8][2 * t + i % 2];
    }

    template <int depth>
    void add(const float (&a)[16][depth], const float (&b)[depth][8]) {
        for (int row = 0; row < 16; row++)
            for (int k = 0; k < depth; k++)
                for (int column = 0; column < 8; column++)
                    sums[row][column] += a[row][k] * b[k][column];
    }
};

inline Product product;

inline void multiply_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const Registers<1> own{{{a[0], a[1], a[2], a[3]}}, {{b[0], b[1]}}};
    const auto* slots = on_host::exchange(all_lanes, "mma.bf16", &own, sizeof own);
    product.give(c, slots, [&] {
        float rows[16][16], columns[16][8];
        for (int lane = 0; lane < warp_size; lane++) {
            const auto of = on_host::of<Registers<1>>(slots[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 8; i++) {
                rows[g + i / 2 % 2 * 8][2 * t + i / 4 * 8 + i % 2] = half_of(of.a[0][i / 2], i % 2);
                if (i < 4) columns[2 * t + i / 2 * 8 + i % 2][g] = half_of(of.b[0][i / 2], i % 2);
            }
        }
        product.add(rows, columns);
    });
}

// Operands of TF32 from the registers of all lanes; `part` of `parts` that each has.
template <int parts>
void place_tf32(const on_host::Slot* slots, int part, float (&a)[16][8], float (&b)[8][8]) {
    for (int lane = 0; lane < warp_size; lane++) {
        const auto of = on_host::of<Registers<parts>>(slots[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) a[g + i % 2 * 8][t + i / 2 * 4] = cut_tf32(of.a[part][i]);
        for (int i = 0; i < 2; i++) b[t + i * 4][g] = cut_tf32(of.b[part][i]);
    }
}

inline void multiply_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const Registers<1> own{{{a[0], a[1], a[2], a[3]}}, {{b[0], b[1]}}};
    const auto* slots = on_host::exchange(all_lanes, "mma.tf32", &own, sizeof own);
    product.give(c, slots, [&] {
        float rows[16][8], columns[8][8];
        place_tf32<1>(slots, 0, rows, columns);
        product.add(rows, columns);
    });
}

inline void multiply_tf32x3(float (&c)[4], const uint32_t (&a_high)[4], const uint32_t (&a_low)[4],
                            const uint32_t (&b_high)[2], const uint32_t (&b_low)[2]) {
    Registers<2> own;
    memcpy(own.a[0], a_high, sizeof a_high);
    memcpy(own.a[1], a_low, sizeof a_low);
    memcpy(own.b[0], b_high, sizeof b_high);
    memcpy(own.b[1], b_low, sizeof b_low);
    const auto* slots = on_host::exchange(all_lanes, "mma.tf32 three times", &own, sizeof own);
    product.give(c, slots, [&] {
        float rows[2][16][8], columns[2][8][8];
        for (int part = 0; part < 2; part++) place_tf32<2>(slots, part, rows[part], columns[part]);
        product.add(rows[1], columns[0]);
        product.add(rows[0], columns[1]);
        product.add(rows[0], columns[0]);
    });
}

inline const uint16_t* checked_row(const void* row) {
    on_host::require_shared("ldmatrix", row, 16);
    return static_cast<const uint16_t*>(row);
}

inline void load_matrices(uint32_t (&to)[4], const void* row) {
    const auto* own = checked_row(row);
    const auto* slots = on_host::exchange(all_lanes, "ldmatrix", &own, sizeof own);
    const int g = on_host::lane() / 4, t = on_host::lane() % 4;
    for (int i = 0; i < 4; i++) {
        const auto* from = on_host::of<const uint16_t*>(slots[8 * i + g]);
        to[i] = from[2 * t] | static_cast<uint32_t>(from[2 * t + 1]) << 16;
    }
}

inline void load_transposed(uint32_t (&to)[4], const void* row) {
    const auto* own = checked_row(row);
    const auto* slots = on_host::exchange(all_lanes, "ldmatrix.trans", &own, sizeof own);
    const int g = on_host::lane() / 4, t = on_host::lane() % 4;
    for (int i = 0; i < 4; i++) {
        const auto* low = on_host::of<const uint16_t*>(slots[8 * i + 2 * t]);
        const auto* high = on_host::of<const uint16_t*>(slots[8 * i + 2 * t + 1]);
        to[i] = low[g] | static_cast<uint32_t>(high[g]) << 16;
    }
}

struct Copy {
    void* to;
    const void* from;
};

// The groups of copies that this thread has not waited for; the last is still open.
inline std::deque<std::vector<Copy>>& copies_of_thread() {
    static std::vector<std::deque<std::vector<Copy>>> all(1024);
    auto& own = all[threadIdx.x];
    if (own.empty()) own.emplace_back();
    return own;
}

inline void copy_async(void* shared, const void* global) {
    on_host::require_shared("cp.async", shared, 16);
    on_host::require_global("cp.async", global, 16);
    static uint32_t chance = 1;
    chance = chance * 1664525u + 1013904223u;
    if (chance >> 31)
        memcpy(shared, global, 16);
    else
        copies_of_thread().back().push_back({shared, global});
}

inline void commit_copies() { copies_of_thread().emplace_back(); }

template <int left>
void wait_for_copies() {
    auto& groups = copies_of_thread();
    while (groups.size() > left + 1) {
        for (const Copy& copy : groups.front()) memcpy(copy.to, copy.from, 16);
        groups.pop_front();
    }
}

inline float exp2_of(float x) { return exp2f(x); }

inline uint32_t bits_bf16(float x) {
    const uint32_t bits = bits_of_float(x);
    if (x != x) return bits >> 16 | 0x40;  // rounding could make an infinity of it
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack_bf16(float low, float high) { return bits_bf16(low) | bits_bf16(high) << 16; }

inline float round_tf32(float x) {
    if (!(x - x == 0)) return x;
    return float_of_bits((bits_of_float(x) + 0x1000) & 0xffffe000u);
}

}  // namespace minillm::device
