// A stable sort of ids that leaves no choice to chance: the gradient of an embedding adds up the
// rows of each id in the order in which they came.
#pragma once

#include "launch.h"

namespace minillm::device {

// n ids in ascending order, each with the place where it stood; n below 2^31. Those outside of
// [0, limit) have become `limit`. Least significant digits first (an LSD radix sort).
class Sorted {
 public:
    Sorted(const int64_t* ids, int64_t n, int64_t limit);
    const uint32_t* keys() const { return keys_.data() + (second_ ? n_ : 0); }
    const uint32_t* places() const { return places_.data() + (second_ ? n_ : 0); }

 private:
    Scratch<uint32_t> keys_, places_;  // twice n: each pass goes from one half to the other
    int64_t n_;
    bool second_ = false;
};

}  // namespace minillm::device
