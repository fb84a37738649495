#include "../precision.h"
#include "factor.h"
#include "visit.h"

namespace minillm::device {
namespace {

template <int Width>
struct Look {
    using Loaded = Pack<Width>;
    const float* x;
    int64_t stride;

    __device__ Loaded load(int64_t row, int64_t col) const {
        return device::load<Width>(x + row * stride + col);
    }
    __device__ Loaded finish(int64_t, int64_t, const Loaded& values) const { return values; }
};

template <int Width>
struct Round : Look<Width> {
    using Loaded = Pack<Width>;
    bf16* to;
    int64_t to_stride;

    __device__ Loaded finish(int64_t row, int64_t col, const Loaded& values) const {
        store(to + row * to_stride + col, values);
        return values;
    }
};

template <int Width>
void take(const float* data, int64_t rows, int64_t cols, Gradient sums, const Room& room) {
    if (room.number() == Number::bf16)
        visit<Width>(Round<Width>{{data, cols}, room.data<bf16>(), room.stride()}, rows, cols,
                     sums);
    else if (sums.data)
        visit<Width>(Look<Width>{data, cols}, rows, cols, sums);
}

int64_t padded(int64_t cols) { return divide_up(cols, 8) * 8; }

}  // namespace

Number product_number() { return bf16_products() ? Number::bf16 : Number::float32; }

Room::Room(int64_t rows, int64_t cols)
    : number_(product_number()),
      stride_(padded(cols)),
      bytes_(static_cast<size_t>(rows * stride_ * size_of(number_))) {}

Factor::Factor(const float* data, int64_t rows, int64_t cols, Gradient sums)
    : room_(product_number() == Number::bf16 ? rows : 0, cols), operand_(room_) {
    if (room_.number() == Number::float32) operand_ = {data, Number::float32, cols};
    if (by_fours(cols, {data}))
        take<4>(data, rows, cols, sums, room_);
    else
        take<1>(data, rows, cols, sums, room_);
}

Operand Factor::part(int64_t row) const {
    Operand a = operand_;
    a.data = static_cast<const uint8_t*>(a.data) + row * a.stride * size_of(a.number);
    return a;
}

}  // namespace minillm::device
