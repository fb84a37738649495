// How many numbers a block of each of ggml's tensor types holds, in how many bytes.
#pragma once

#include "arguments.h"

namespace minillm {

struct BlockSize {
    int64_t numbers, bytes;
};

// Fails for a type that has no kernel.
BlockSize block_size(const Arguments& args, int kind);

}  // namespace minillm
