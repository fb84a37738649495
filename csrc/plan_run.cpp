// A plan run on the host.
#include <algorithm>
#include <cstring>

#include "parallel.h"
#include "plan.h"
#include "scratch.h"

namespace minillm {

const Kernels& kernels();

namespace {

// The rows of a view as kernels want them, contiguous.
class Rows {
 public:
    Rows(float* data, int64_t rows, int64_t width, int64_t stride)
        : copy_(rows == 1 || width == stride ? 0 : rows * width),
          data_(rows == 1 || width == stride ? data : copy_) {
        if (data_ == data) return;
        for (int64_t i = 0; i < rows; i++)
            std::memcpy(data_ + i * width, data + i * stride, sizeof(float) * width);
    }
    operator const float*() const { return data_; }

 private:
    Scratch copy_;
    float* data_;
};

template <class F>
void over_rows(int64_t rows, const F& work) {
    const int64_t each = 16;
    parallel_for((rows + each - 1) / each, [&](int64_t chunk) {
        for (int64_t i = chunk * each; i < std::min(rows, (chunk + 1) * each); i++) work(i);
    });
}

}  // namespace

GrowingMemory::~GrowingMemory() { release(); }

void GrowingMemory::release() {
    delete[] data_;
    data_ = nullptr;
    floats_ = 0;
}

float* GrowingMemory::at_least(int64_t floats) {
    if (floats_ < floats) {
        release();
        data_ = new float[floats];
        floats_ = floats;
    }
    return data_;
}

Plan::~Plan() = default;

void Plan::run(const std::vector<const float*>& inputs, const Tokens& tokens, float* result) {
    make_room(tokens);
    data_.back() = result;
    for (size_t i = 0; i < inputs.size(); i++)
        std::memcpy(data_[i], inputs[i], sizeof(float) * tokens.count * widths_[i]);
    run_steps(tokens);
}

void Plan::make_room(const Tokens& tokens) {
    int64_t widest = 0;
    for (size_t slot = 0; slot + 1 < widths_.size(); slot++) {
        data_[slot] = memory_[slot].at_least(tokens.count * widths_[slot]);
        widest = std::max(widest, widths_[slot]);
    }
    spare_.at_least(2 * tokens.count * widest);
}

void Plan::run_steps(const Tokens& tokens) {
    int64_t rows = tokens.count;
    for (size_t i = 0; i < steps_.size();) {
        const Step& step = steps_[i++];
        if (step.kind == Kind::linear) {
            int64_t count = 1;
            for (; i < steps_.size() && steps_[i].joins; i++) count++;
            run_linears(&step, count, rows);
            continue;
        }
        run_step(step, rows, tokens);
        if (step.kind == Kind::select) rows = static_cast<int64_t>(tokens.wanted.size());
    }
}

void Plan::run_step(const Step& step, int64_t rows, const Tokens& tokens) {
    const int64_t width = step.out.width;
    switch (step.kind) {
        case Kind::linear:
            return run_linears(&step, 1, rows);
        case Kind::rms_norm:
        case Kind::layer_norm:
            return run_norm(step, rows);
        case Kind::rotate:
            return over_rows(rows, [&](int64_t i) {
                const int64_t half = step.width / 2, angle = tokens.positions[i] * half;
                kernels().rotary_forward(at(step.a, i), tokens.cos + angle, tokens.sin + angle,
                                         width / step.width, 1, step.width, half, false,
                                         at(step.out, i));
            });
        case Kind::attend:
            return run_attention(step, tokens);
        case Kind::activate:
        case Kind::add:
        case Kind::multiply:
            return run_elements(step, rows);
        case Kind::select:
            for (const int slot : step.slots)
                for (size_t i = 0; i < tokens.wanted.size(); i++)
                    if (tokens.wanted[i] != static_cast<int64_t>(i))
                        std::memcpy(data_[slot] + i * widths_[slot],
                                    data_[slot] + tokens.wanted[i] * widths_[slot],
                                    sizeof(float) * widths_[slot]);
            return;
    }
}

void Plan::run_elements(const Step& step, int64_t rows) const {
    const int64_t width = step.out.width;
    over_rows(rows, [&](int64_t i) {
        const float *a = at(step.a, i), *b = at(step.b, i);
        float* out = at(step.out, i);
        if (step.kind == Kind::add) {
            for (int64_t j = 0; j < width; j++) out[j] = a[j] + b[j];
        } else if (step.kind == Kind::multiply) {
            for (int64_t j = 0; j < width; j++) out[j] = a[j] * b[j];
        } else if (step.activation == Activation::silu) {
            kernels().silu_forward(a, width, out);
        } else {
            kernels().gelu_forward(a, width, step.activation == Activation::gelu_tanh, out);
        }
    });
}

void Plan::run_linears(const Step* steps, int64_t count, int64_t rows) const {
    const View b = steps->b;  // a product with a residual is alone
    const Linear& first = steps->layer;
    const Rows x(at(steps->a, 0), rows, first.inputs, widths_[steps->a.slot]);
    const Rows residual(at(b, 0), steps->has_b ? rows : 0, first.outputs, widths_[b.slot]);
    BlockProduct products[most_together];
    for (int64_t i = 0; i < count; i++) {
        const Linear& layer = steps[i].layer;
        products[i] = {layer.kind,    layer.weight, x,
                       layer.bias,    nullptr,      rows,
                       layer.outputs, layer.inputs, at(steps[i].out, 0)};
    }
    if (steps->has_b) products[0].residual = residual;
    kernels().block_linear_forward(products, count);
}

void Plan::run_norm(const Step& step, int64_t rows) {
    const int64_t parts = step.out.width / step.width;
    const Rows x(at(step.a, 0), rows, step.out.width, widths_[step.a.slot]);
    float *mean = spare_.at_least(0), *rstd = mean + rows * parts;
    if (step.kind == Kind::rms_norm)
        kernels().rms_norm_forward(x, step.weight, step.eps, rows * parts, step.width,
                                   at(step.out, 0), rstd);
    else
        kernels().layer_norm_forward(x, step.weight, step.bias, step.eps, rows * parts, step.width,
                                     at(step.out, 0), mean, rstd);
}

// All keys and values are stored before anything attends; a text's own tokens see each other.
void Plan::run_attention(const Step& step, const Tokens& tokens) const {
    const CachedAttention& a = step.attention;
    over_rows(tokens.count, [&](int64_t i) {
        const LayerKeys& keys = (*tokens.keys[tokens.texts[i]])[a.layer];
        for (int64_t head = 0; head < a.kv_heads; head++) {
            const int64_t row = head * keys.capacity + tokens.positions[i];
            std::memcpy(keys.k + row * a.d, at(step.b, i) + head * a.d, sizeof(float) * a.d);
            std::memcpy(keys.v + row * a.value_d, at(step.c, i) + head * a.value_d,
                        sizeof(float) * a.value_d);
        }
    });
    if (tokens.count >= many_rows && !a.window) return attend_once(step, tokens, 0, tokens.count);
    parallel_for(tokens.count, [&](int64_t i) { attend_once(step, tokens, i, 1); });
}

// `rows` consecutive tokens of one text, the first of them `first`.
void Plan::attend_once(const Step& step, const Tokens& tokens, int64_t first, int64_t rows) const {
    const CachedAttention& a = step.attention;
    const LayerKeys& keys = (*tokens.keys[tokens.texts[first]])[a.layer];
    const int64_t last = tokens.positions[first];
    const int64_t begin = a.window ? std::max<int64_t>(0, last - a.window + 1) : 0;
    const Scratch lse(a.heads * rows);
    const Attention attention{1,
                              a.heads,
                              a.kv_heads,
                              rows,
                              last + rows - begin,
                              a.d,
                              a.value_d,
                              {at(step.a, first), 0, a.d, widths_[step.a.slot]},
                              {keys.k + begin * a.d, 0, keys.capacity * a.d, a.d},
                              {keys.v + begin * a.value_d, 0, keys.capacity * a.value_d, a.value_d},
                              {},
                              rows > 1,
                              last,
                              a.scale};
    kernels().attention_forward(attention,
                                {at(step.out, first), 0, a.value_d, widths_[step.out.slot]}, lse);
}

}  // namespace minillm
