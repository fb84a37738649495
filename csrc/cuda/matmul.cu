// Products of matrices with any strides, one or many. What does not lie as products take it, or
// has to be rounded, is copied first.
#include "factor.h"
#include "kernels.h"
#include "numbers.h"

namespace minillm::device {
namespace {

constexpr int threads = 256;
constexpr int64_t most_blocks = 1 << 16;

template <class T>
__global__ void pack(Matrix from, int64_t batch, int64_t step, T* to, int64_t stride) {
    const int64_t all = batch * from.rows * from.cols;
    const int64_t at_once = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < all;
         i += at_once) {
        const int64_t col = i % from.cols, row = i / from.cols % from.rows;
        const int64_t entry = i / from.cols / from.rows;
        const Pack<1> value{
            {from.data[entry * step + row * from.row_stride + col * from.col_stride]}};
        store(to + (entry * from.rows + row) * stride + col, value);
    }
}

// Matrices `step` elements apart as products take them; one for all if the step is 0.
class Packed {
 public:
    Packed(Matrix m, int64_t batch, int64_t step)
        : turned_(m.col_stride != 1 && m.row_stride == 1),
          m_(turned_ ? Matrix{m.data, m.cols, m.rows, m.col_stride, m.row_stride} : m),
          entries_(step ? batch : 1),
          lies_(product_number() == Number::float32 && m_.col_stride == 1 &&
                m_.row_stride >= m_.cols && step >= 0),
          room_(lies_ ? 0 : entries_ * m_.rows, m_.cols),
          operand_(room_) {
        if (lies_) {
            operand_ = {m_.data, Number::float32, m_.row_stride, false, step};
        } else {
            operand_.batch_stride = step ? m_.rows * room_.stride() : 0;
            copy(step);
        }
        operand_.transposed = turned_;
    }
    operator Operand() const { return operand_; }

 private:
    void copy(int64_t step) const {
        const int64_t blocks = divide_up(entries_ * m_.rows * m_.cols, threads);
        const dim3 grid(blocks < most_blocks ? blocks : most_blocks);
        if (room_.number() == Number::bf16)
            launch(pack<bf16>, grid, threads, 0, m_, entries_, step, room_.data<bf16>(),
                   room_.stride());
        else
            launch(pack<float>, grid, threads, 0, m_, entries_, step, room_.data<float>(),
                   room_.stride());
    }

    bool turned_;
    Matrix m_;
    int64_t entries_;
    bool lies_;
    Room room_;
    Operand operand_;
};

// How many of the first `limit` offsets go up by equal steps.
int64_t run_of(const int64_t* offsets, int64_t limit) {
    int64_t count = limit < 2 ? limit : 2;
    while (count < limit && offsets[count] - offsets[count - 1] == offsets[1] - offsets[0]) count++;
    return count;
}

void multiply_run(Matrix a, int64_t a_step, const Matrix& b, int64_t b_step, int64_t batch,
                  float* out) {
    if (b_step == 0 && a_step == a.rows * a.row_stride) {  // a single tall matrix
        a.rows *= batch;
        batch = 1;
    }
    const Packed left(a, batch, batch > 1 ? a_step : 0), right(b, batch, batch > 1 ? b_step : 0);
    Product p{a.rows, b.cols, a.cols, left, right, out, b.cols};
    p.batch = batch;
    p.batch_stride = a.rows * b.cols;
    multiply(p);
}

}  // namespace

void matmul_forward(const Matrix& a, const int64_t* a_offsets, const Matrix& b,
                    const int64_t* b_offsets, int64_t batch, float* out) {
    for (int64_t first = 0; first < batch;) {
        int64_t count = run_of(a_offsets + first, batch - first);
        count = run_of(b_offsets + first, count);
        Matrix left = a, right = b;
        left.data += a_offsets[first];
        right.data += b_offsets[first];
        const int64_t a_step = count > 1 ? a_offsets[first + 1] - a_offsets[first] : 0;
        const int64_t b_step = count > 1 ? b_offsets[first + 1] - b_offsets[first] : 0;
        multiply_run(left, a_step, right, b_step, count, out + first * a.rows * b.cols);
        first += count;
    }
}

}  // namespace minillm::device
