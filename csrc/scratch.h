// Working memory of a kernel: 64-byte aligned, kept by its thread for the next one that asks.
#pragma once

#include <stdint.h>

namespace minillm {

class Scratch {
 public:
    explicit Scratch(int64_t floats);  // contents undefined; throws std::bad_alloc
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    operator float*() const;

 private:
    float* data_;
    int64_t floats_;
};

}  // namespace minillm
