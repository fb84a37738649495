// A product with a weight that stays as blocks, and the part of it that takes many rows.
#pragma once

#include <type_traits>

#include "blocks.h"

namespace minillm::MINILLM_ISA {

// out (n, m) = x (n, k) times m lines of blocks, transposed, + bias + residual, which may be null.
struct BlockProduct {
    int kind;
    const uint8_t* blocks;
    const float *x, *bias, *residual;
    int64_t n, m, k;
    float* out;
};

constexpr int64_t many_rows = 32;

void multiply_many_rows(const BlockProduct& p);

template <class T>
struct Type {
    using type = T;
};

// Calls f with the type of blocks whose number in ggml is `kind`.
template <class F>
INLINE void with_kind(int kind, const F& f) {
    switch (kind) {
        case 0:
            return f(Type<F32>{});
        case 1:
            return f(Type<F16>{});
        case 2:
            return f(Type<Q4_0>{});
        case 3:
            return f(Type<Q4_1>{});
        case 6:
            return f(Type<Q5_0>{});
        case 7:
            return f(Type<Q5_1>{});
        case 8:
            return f(Type<Q8_0>{});
        case 12:
            return f(Type<Q4_K>{});
        case 13:
            return f(Type<Q5_K>{});
        case 14:
            return f(Type<Q6_K>{});
        case 30:
            return f(Type<BF16>{});
    }
}

}  // namespace minillm::MINILLM_ISA
