// A factor of a product as the run's precision takes it.
#pragma once

#include "../kernels.h"
#include "launch.h"
#include "products.h"

namespace minillm::device {

Number product_number();  // of this run: bf16, or float32

// Room for a matrix in the run's numbers. Rows of bfloat16 begin at multiples of 16 bytes, as fast
// products need it; what lies between them is never read.
class Room {
 public:
    Room(int64_t rows, int64_t cols);
    Number number() const { return number_; }
    int64_t stride() const { return stride_; }
    template <class T>
    T* data() const {
        return reinterpret_cast<T*>(bytes_.data());
    }
    operator Operand() const { return {bytes_.data(), number_, stride_}; }

 private:
    Number number_;
    int64_t stride_;
    Scratch<uint8_t> bytes_;
};

// A matrix (rows, cols) of float32, contiguous: taken where it lies, or rounded once.
class Factor {
 public:
    Factor(const float* data, int64_t rows, int64_t cols);
    operator Operand() const { return operand_; }
    Operand part(int64_t row) const;  // from this row on

 private:
    Room room_;
    Operand operand_;
};

// sums (cols) (+)= those of the columns of a (rows, cols), where that is wanted.
void sum_columns(const Operand& a, int64_t rows, int64_t cols, Gradient sums);

}  // namespace minillm::device
