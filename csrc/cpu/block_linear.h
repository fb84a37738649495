// Products with weights that stay as blocks, and the parts of them that take many rows.
#pragma once

#include <type_traits>

#include "../kernels.h"
#include "../parallel.h"
#include "rounded.h"

namespace minillm::MINILLM_ISA {

void multiply_many_rows(const BlockProduct* products, int64_t count);
// The rows that have no whole numbers anew, in float32.
void multiply_wild_rows(const BlockProduct& p, const RoundedRows& x);
// Of blocks or 16-bit floats, where there are tiles.
void multiply_by_tiles(const BlockProduct* products, int64_t count);

template <class T>
struct Type {
    using type = T;
};

// Calls f with the type of blocks whose number in ggml is `kind`.
template <class F>
INLINE void with_kind(int kind, const F& f) {
    switch (kind) {
        case F32::kind:
            return f(Type<F32>{});
        case F16::kind:
            return f(Type<F16>{});
        case Q4_0::kind:
            return f(Type<Q4_0>{});
        case Q4_1::kind:
            return f(Type<Q4_1>{});
        case Q5_0::kind:
            return f(Type<Q5_0>{});
        case Q5_1::kind:
            return f(Type<Q5_1>{});
        case Q8_0::kind:
            return f(Type<Q8_0>{});
        case Q4_K::kind:
            return f(Type<Q4_K>{});
        case Q5_K::kind:
            return f(Type<Q5_K>{});
        case Q6_K::kind:
            return f(Type<Q6_K>{});
        case BF16::kind:
            return f(Type<BF16>{});
    }
}

// Calls f(product, i) for each i below portions(product), for all products in one go.
template <class Portions, class F>
INLINE void over_portions(const BlockProduct* products, int64_t count, const Portions& portions,
                          const F& f) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) total += portions(products[i]);
    parallel_for(total, [&](int64_t i) {
        const BlockProduct* p = products;
        for (; i >= portions(*p); p++) i -= portions(*p);
        f(*p, i);
    });
}

// Calls f(unit, numbers, d, m) for `count` units of a line; large blocks whole.
template <class Kind, class F>
INLINE void over_units(const uint8_t* line, int64_t first, int64_t count, const F& f) {
    for (int64_t b = first / Kind::units; b < (first + count) / Kind::units; b++) {
        const uint8_t* at = line + b * Kind::bytes;
        if constexpr (Kind::units == 1) {
            f(b, Kind::numbers(at), half_at(at), Kind::offsets ? half_at(at + 2) : 0);
        } else {
            const Kind block(at);
            for (int u = 0; u < 8; u++) {
                float m = 0;
                if constexpr (Kind::offsets) m = block.m[u];
                f(8 * b + u, block.numbers(u), block.d[u], m);
            }
        }
    }
}

}  // namespace minillm::MINILLM_ISA
