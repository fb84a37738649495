// Blocks where their kernels can read them, and the kernels of a kind.
#pragma once

#include <stdexcept>
#include <string>

#include "blocks.h"

namespace minillm::device {

// Those of a file, copied only where they lie at no multiple of their alignment.
class AlignedBlocks {
 public:
    AlignedBlocks(const uint8_t* blocks, int64_t bytes, int alignment)
        : copy_(reinterpret_cast<uintptr_t>(blocks) % alignment ? bytes : 0), data_(blocks) {
        if (!copy_.data()) return;
        check(cudaMemcpyAsync(copy_.data(), blocks, bytes, cudaMemcpyDeviceToDevice,
                              current_stream()),
              "blocks");
        data_ = copy_.data();
    }
    const uint8_t* data() const { return data_; }

 private:
    Scratch<uint8_t> copy_;
    const uint8_t* data_;
};

// use(Kind()) for the kind of that number.
template <class Use>
void of_kind(int number, const Use& use) {
    const auto found = [&](auto... kinds) {
        return ((number == decltype(kinds)::kind && (use(kinds), true)) || ...);
    };
    if (!found(F32(), F16(), BF16(), Q4_0(), Q4_1(), Q5_0(), Q5_1(), Q8_0(), Q4_K(), Q5_K(),
               Q6_K()))
        throw std::invalid_argument("blocks of type " + std::to_string(number) +
                                    ", one that has a kernel is needed");
}

}  // namespace minillm::device
