#include "../precision.h"
#include "factor.h"
#include "visit.h"

namespace minillm::device {
namespace {

template <class T, int Width>
struct Look {
    using Loaded = Pack<Width>;
    const T* x;
    int64_t stride;

    __device__ Loaded load(int64_t row, int64_t col) const {
        return device::load<Width>(x + row * stride + col);
    }
    __device__ Loaded finish(int64_t, int64_t, const Loaded& values) const { return values; }
};

template <int Width>
struct Round : Look<float, Width> {
    using Loaded = Pack<Width>;
    bf16* to;
    int64_t to_stride;

    __device__ Loaded finish(int64_t row, int64_t col, const Loaded& values) const {
        store(to + row * to_stride + col, values);
        return values;
    }
};

template <int Width>
void round(const float* data, int64_t rows, int64_t cols, const Room& room) {
    visit<Width>(Round<Width>{{data, cols}, room.data<bf16>(), room.stride()}, rows, cols);
}

template <class T>
void sum_columns_of(const T* data, int64_t stride, int64_t rows, int64_t cols, Gradient sums) {
    if (by_fours(cols, {data}) && stride % 4 == 0)
        visit<4>(Look<T, 4>{data, stride}, rows, cols, sums);
    else
        visit<1>(Look<T, 1>{data, stride}, rows, cols, sums);
}

int64_t padded(int64_t cols) { return divide_up(cols, 8) * 8; }

}  // namespace

Number product_number() { return bf16_products() ? Number::bf16 : Number::float32; }

Room::Room(int64_t rows, int64_t cols)
    : number_(product_number()),
      stride_(padded(cols)),
      bytes_(static_cast<size_t>(rows * stride_ * size_of(number_))) {}

Factor::Factor(const float* data, int64_t rows, int64_t cols)
    : room_(product_number() == Number::bf16 ? rows : 0, cols), operand_(room_) {
    if (room_.number() == Number::float32)
        operand_ = {data, Number::float32, cols};
    else if (by_fours(cols, {data}))
        round<4>(data, rows, cols, room_);
    else
        round<1>(data, rows, cols, room_);
}

Operand Factor::part(int64_t row) const {
    Operand a = operand_;
    a.data = static_cast<const uint8_t*>(a.data) + row * a.stride * size_of(a.number);
    return a;
}

void sum_columns(const Operand& a, int64_t rows, int64_t cols, Gradient sums) {
    if (!sums.data) return;
    if (a.number == Number::bf16)
        sum_columns_of(static_cast<const bf16*>(a.data), a.stride, rows, cols, sums);
    else
        sum_columns_of(static_cast<const float*>(a.data), a.stride, rows, cols, sums);
}

}  // namespace minillm::device
