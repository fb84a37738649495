// Element by element: each thread moves four numbers at once where that can be done.
#pragma once

#include "rows.h"

namespace minillm::device {

// out[i] = f(i, inputs[i]...), f a struct: its type names the kernel. An input may be out itself.
template <int W, class F, class... In>
__global__ void __launch_bounds__(block_threads)
    elements_kernel(int64_t n, F f, float* out, In... inputs) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x) * W;
    if (i >= n) return;
    const Pack<W> packs[] = {own<W>(inputs + i)...};
    Pack<W> result;
#pragma unroll
    for (int k = 0; k < W; k++) {
        if constexpr (sizeof...(In) == 1)
            result.at[k] = f(i + k, packs[0].at[k]);
        else
            result.at[k] = f(i + k, packs[0].at[k], packs[1].at[k]);
    }
    store(out + i, result);
}

template <class F, class... In>
void for_each_element(int64_t n, const F& f, float* out, In... inputs) {
    const auto blocks = [&](int64_t packs) {
        return dim3(static_cast<unsigned>(divide_up(packs, block_threads)));
    };
    if (by_fours(n, {out, inputs...}))
        launch(elements_kernel<4, F, In...>, blocks(n / 4), dim3(block_threads), 0, n, f, out,
               inputs...);
    else
        launch(elements_kernel<1, F, In...>, blocks(n), dim3(block_threads), 0, n, f, out,
               inputs...);
}

}  // namespace minillm::device
