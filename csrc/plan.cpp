#include "plan.h"

#include <algorithm>

namespace minillm {

Plan::Plan(std::vector<int64_t> widths)
    : widths_(std::move(widths)), memory_(widths_.size()), data_(widths_.size()) {}

Plan::Step& Plan::append(Kind kind, View out, View a) {
    Step step{};
    step.kind = kind;
    step.out = out;
    step.a = a;
    steps_.push_back(std::move(step));
    return steps_.back();
}

void Plan::linear(View out, View x, const View* residual, const Linear& layer) {
    const int64_t place = residual ? 0 : place_beside(out, x);
    Step& step = append(Kind::linear, out, x);
    step.has_b = residual;
    if (residual) step.b = *residual;
    step.layer = layer;
    step.joins = place > 0;
    if (place) std::rotate(steps_.begin() + place, steps_.end() - 1, steps_.end());
}

// Where a product may run together with an earlier one of the same x, 0 if nowhere: nothing on the
// way up there writes x, or reads or writes what is to hold the result.
int64_t Plan::place_beside(View out, View x) const {
    int64_t together = 1;
    for (int64_t i = static_cast<int64_t>(steps_.size()) - 1; i >= 0; i--) {
        const Step& step = steps_[i];
        const View views[] = {step.out, step.a, step.b, step.c};
        for (const View& view : views)
            if (view.slot == out.slot) return 0;
        if (step.out.slot == x.slot || step.kind == Kind::select) return 0;
        if (step.kind != Kind::linear || step.has_b || step.a != x) continue;
        for (int64_t j = i; steps_[j].joins; j--) together++;
        return together < most_together ? i + 1 : 0;
    }
    return 0;
}

void Plan::rms_norm(View out, View x, const float* weight, double eps, int64_t width) {
    Step& step = append(Kind::rms_norm, out, x);
    step.weight = weight;
    step.eps = eps;
    step.width = width;
}

void Plan::layer_norm(View out, View x, const float* weight, const float* bias, double eps,
                      int64_t width) {
    Step& step = append(Kind::layer_norm, out, x);
    step.weight = weight;
    step.bias = bias;
    step.eps = eps;
    step.width = width;
}

void Plan::rotate(View out, View x, int64_t head) { append(Kind::rotate, out, x).width = head; }

void Plan::attend(View out, View q, View k, View v, const CachedAttention& attention) {
    Step& step = append(Kind::attend, out, q);
    step.b = k;
    step.c = v;
    step.attention = attention;
}

void Plan::activate(View out, View x, Activation activation) {
    append(Kind::activate, out, x).activation = activation;
}

void Plan::add(View out, View a, View b) { append(Kind::add, out, a).b = b; }

void Plan::multiply(View out, View a, View b) { append(Kind::multiply, out, a).b = b; }

void Plan::select(std::vector<int> slots) { append(Kind::select, {}, {}).slots = std::move(slots); }

float* Plan::at(View view, int64_t row) const {
    return data_[view.slot] + row * widths_[view.slot] + view.offset;
}

}  // namespace minillm
