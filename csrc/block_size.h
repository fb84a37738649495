// How many numbers a block of each of ggml's tensor types holds, in how many bytes.
#pragma once

#include <stdint.h>

namespace minillm {

struct BlockSize {
    int kind;  // ggml's number of the type
    int numbers, bytes;
};

// The types that have kernels.
constexpr BlockSize block_sizes[] = {
    {0, 1, 4},       // F32
    {1, 1, 2},       // F16
    {2, 32, 18},     // Q4_0
    {3, 32, 20},     // Q4_1
    {6, 32, 22},     // Q5_0
    {7, 32, 24},     // Q5_1
    {8, 32, 34},     // Q8_0
    {12, 256, 144},  // Q4_K
    {13, 256, 176},  // Q5_K
    {14, 256, 210},  // Q6_K
    {30, 1, 2},      // BF16
};

// That of a type; 0 numbers where it has no kernel. (Static: each instruction set has its own.)
static constexpr BlockSize size_of_kind(int kind) {
    for (const BlockSize& size : block_sizes)
        if (size.kind == kind) return size;
    return {kind, 0, 0};
}

}  // namespace minillm
