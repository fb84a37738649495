// A step of the iteration is three products for all matrices of one shape; the smaller Gram matrix
// is the one that is multiplied. Operands are in the run's numbers, sums and what is added to them
// in float32.
#include <algorithm>
#include <utility>

#include "factor.h"
#include "numbers.h"
#include "orthogonal.h"
#include "tables.h"
#include "visit.h"

namespace minillm::device {
namespace {

// Matrices of `rows` rows one below the other, each times its factor.
template <int W, class T>
struct Scale {
    using Loaded = Pack<W>;
    const float* x;
    int64_t cols;
    unsigned rows;
    const float* factors;
    T* to;
    int64_t stride;

    __device__ Loaded load(int64_t row, int64_t col) const { return own<W>(x + row * cols + col); }
    __device__ Loaded finish(int64_t row, int64_t col, Loaded values) const {
        const float factor = factors[static_cast<unsigned>(row) / rows];
        for (int i = 0; i < W; i++) values.at[i] *= factor;
        store(to + row * stride + col, values);
        return values;
    }
};

// Square matrices one below the other: factor x + diagonal, and where it is wanted x itself.
template <int W, class T>
struct Bend {
    using Loaded = Pack<W>;
    const float* x;
    int64_t side;
    float factor, diagonal;
    T *to, *copy;
    int64_t stride;

    __device__ Loaded load(int64_t row, int64_t col) const {
        return device::load<W>(x + row * side + col);
    }
    __device__ Loaded finish(int64_t row, int64_t col, Loaded values) const {
        if (copy) store(copy + row * stride + col, values);
        const unsigned place = static_cast<unsigned>(row) % static_cast<unsigned>(side);
        for (int i = 0; i < W; i++) {
            values.at[i] *= factor;
            if (place == col + i) values.at[i] += diagonal;
        }
        store(to + row * stride + col, values);
        return values;
    }
};

// use(Width<W>(), T()) for W numbers moved at once and T, the run's numbers.
template <class Use>
void in_numbers(int64_t cols, Number number, const Use& use) {
    const auto with = [&](auto width) {
        number == Number::bf16 ? use(width, bf16()) : use(width, float());
    };
    cols % 4 == 0 ? with(Width<4>()) : with(Width<1>());
}

// `count` matrices of one shape: x f(x' x) or f(x x') x with the quintic's f(g) = a + g (b + c g).
class Iteration {
 public:
    Iteration(const Muon& s, int64_t count, int64_t rows, int64_t cols)
        : s_(s),
          count_(count),
          rows_(rows),
          cols_(cols),
          side_(std::min(rows, cols)),
          number_(product_number()),
          x_(count * rows, cols),
          next_(count * rows, cols),
          bent_(count * side_, side_),
          rounded_(number_ == Number::bf16 ? count * side_ : 0, side_),
          gram_(count * side_ * side_),
          products_(count * side_ * side_) {}

    // Of x, each times its factor; the result takes its place.
    void run(float* x, const float* factors) const {
        scale(x, factors, s_.steps ? nullptr : x);
        const Room *from = &x_, *to = &next_;
        for (int64_t step = 0; step < s_.steps; step++) {
            const bool last = step + 1 == s_.steps;
            bend(*from);
            apply(*from, last ? x : to->data<void>(), last ? Number::float32 : number_,
                  last ? cols_ : to->stride());
            std::swap(from, to);
        }
    }

 private:
    // To x_, or to `out` where it is given.
    void scale(const float* x, const float* factors, float* out) const {
        const auto rows = static_cast<unsigned>(rows_);
        in_numbers(cols_, out ? Number::float32 : number_, [&](auto width, auto number) {
            using T = decltype(number);
            constexpr int W = decltype(width)::value;
            T* to = out ? reinterpret_cast<T*>(out) : x_.template data<T>();
            const int64_t stride = out ? cols_ : x_.stride();
            visit<W>(Scale<W, T>{x, cols_, rows, factors, to, stride}, count_ * rows_, cols_);
        });
    }

    // f of the Gram matrices, to bent_.
    void bend(const Room& x) const {
        const Operand m = operand(x, rows_);
        const bool tall = rows_ > cols_;
        multiply(product(side_, side_, tall ? rows_ : cols_, tall ? transposed(m) : m,
                         tall ? m : transposed(m), gram_.data(), Number::float32, side_));
        const bool round = number_ == Number::bf16;
        bend(gram_.data(), s_.c, s_.b, round);
        Operand gram{gram_.data(), Number::float32, side_};
        gram.batch_stride = side_ * side_;
        multiply(product(side_, side_, side_, round ? operand(rounded_, side_) : gram,
                         operand(bent_, side_), products_.data(), Number::float32, side_));
        bend(products_.data(), 1, s_.a, false);
    }

    void bend(const float* x, double factor, double diagonal, bool round) const {
        in_numbers(side_, number_, [&](auto width, auto number) {
            using T = decltype(number);
            constexpr int W = decltype(width)::value;
            const Bend<W, T> work{x,
                                  side_,
                                  static_cast<float>(factor),
                                  static_cast<float>(diagonal),
                                  bent_.template data<T>(),
                                  round ? rounded_.template data<T>() : nullptr,
                                  bent_.stride()};
            visit<W>(work, count_ * side_, side_);
        });
    }

    void apply(const Room& x, void* out, Number number, int64_t stride) const {
        const Operand m = operand(x, rows_), f = operand(bent_, side_);
        const bool tall = rows_ > cols_;
        multiply(product(rows_, cols_, side_, tall ? m : f, tall ? f : m, out, number, stride));
    }

    Product product(int64_t rows, int64_t cols, int64_t depth, const Operand& a, const Operand& b,
                    void* out, Number number, int64_t stride) const {
        Product p{rows, cols, depth, a, b, out, stride};
        p.out_number = number;
        p.batch = count_;
        p.batch_stride = rows * stride;
        return p;
    }

    static Operand operand(const Room& room, int64_t rows) {
        Operand all = room;
        all.batch_stride = rows * room.stride();
        return all;
    }

    const Muon& s_;
    int64_t count_, rows_, cols_, side_;
    Number number_;
    Room x_, next_, bent_, rounded_;
    Scratch<float> gram_, products_;
};

}  // namespace

void orthogonalize(const Muon& s, int64_t count, int64_t rows, int64_t cols, const float* factors,
                   float* x) {
    Iteration(s, count, rows, cols).run(x, factors);
}

}  // namespace minillm::device
