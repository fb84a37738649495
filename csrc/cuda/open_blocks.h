// Rows of a weight that lies in blocks, as numbers that lie row by row.
#pragma once

#include "factor.h"

namespace minillm::device {

// `count` rows of blocks of one kind with k numbers each: those that `ids` names, of `rows` there
// are, or the first ones where it is null. An id that is none gives a row of NaN.
struct BlockRows {
    int kind;
    const uint8_t* blocks;
    int64_t rows, k;
    const int64_t* ids;
    int64_t count;
};

void open_blocks(const BlockRows& from, float* out);        // contiguous
void open_blocks(const BlockRows& from, const Room& room);  // as products take them

}  // namespace minillm::device
