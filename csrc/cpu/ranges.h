// Loops over the elements of many arrays, and what AdamW does to each.
#pragma once

#include "../kernels.h"
#include "../parallel.h"
#include "../scratch.h"
#include "vec.h"

namespace minillm::MINILLM_ISA {

// Many arrays cut into ranges of at most `each` elements, numbered from first to last.
template <class Item>
class Ranges {
 public:
    Ranges(const Item* items, int64_t count, int64_t each)
        : items_(items), count_(count), each_(each), memory_(2 * (count + 1)) {
        starts_ = reinterpret_cast<int64_t*>(static_cast<float*>(memory_));
        starts_[0] = 0;
        for (int64_t i = 0; i < count; i++)
            starts_[i + 1] = starts_[i] + ceil_div(items[i].n, each);
    }

    int64_t size() const { return starts_[count_]; }

    // Calls f(item, range, first, end) for the elements [first, end) of each range.
    template <class F>
    void for_each(const F& f) const {
        parallel_for(size(), [&](int64_t range) {
            int64_t low = 0, high = count_;  // starts[low] <= range < starts[high]
            while (high - low > 1) {
                const int64_t middle = (low + high) / 2;
                (starts_[middle] <= range ? low : high) = middle;
            }
            const int64_t first = (range - starts_[low]) * each_;
            f(items_[low], range, first, smaller(items_[low].n, first + each_));
        });
    }

 private:
    const Item* items_;
    int64_t count_, each_;
    Scratch memory_;
    int64_t* starts_;
};

// AdamW's settings as kernels take them.
struct Rates {
    float decay, rate, root, beta1, rest1, beta2, rest2, eps, grad_scale;

    explicit Rates(const AdamW& s)
        : decay(static_cast<float>(1 - s.lr * s.weight_decay)),
          rate(
              static_cast<float>(s.lr / (1 - __builtin_pow(s.beta1, static_cast<double>(s.step))))),
          root(static_cast<float>(
              __builtin_sqrt(1 - __builtin_pow(s.beta2, static_cast<double>(s.step))))),
          beta1(static_cast<float>(s.beta1)),
          rest1(static_cast<float>(1 - s.beta1)),
          beta2(static_cast<float>(s.beta2)),
          rest2(static_cast<float>(1 - s.beta2)),
          eps(static_cast<float>(s.eps)),
          grad_scale(static_cast<float>(s.grad_scale)) {}

    // The parameter after the update of it and of its moments.
    vf update(vf param, vf grad, vf& m, vf& v) const {
        const vf g = grad * grad_scale;
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * g * g;
        const vf change = rate * m / (square_root(v) / root + eps);
        return param * decay - change;
    }
};

}  // namespace minillm::MINILLM_ISA
