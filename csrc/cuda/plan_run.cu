// The steps of a plan on a device: each is a launch or a few, and none waits. What follows from
// positions and texts alone is read on the device, so that calls with as many tokens launch alike.
#include "elements.h"
#include "few_queries.h"
#include "few_rows.h"
#include "kernels.h"
#include "plan_device.h"
#include "rotary.h"

namespace minillm {

const Kernels& kernels();

namespace {

using namespace device;

__global__ void copy_numbers(const float* from, int64_t from_stride, int64_t rows, int64_t width,
                             float* to, int64_t to_stride) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x;
    if (i < rows * width)
        to[i / width * to_stride + i % width] = from[i / width * from_stride + i % width];
}

void copy_rows(const float* from, int64_t from_stride, int64_t rows, int64_t width, float* to,
               int64_t to_stride) {
    const dim3 grid(static_cast<unsigned>(divide_up(rows * width, block_threads)));
    launch(copy_numbers, grid, block_threads, 0, from, from_stride, rows, width, to, to_stride);
}

// The rows of a view as kernels want them, contiguous.
class Rows {
 public:
    Rows(float* data, int64_t rows, int64_t width, int64_t stride)
        : copy_(rows == 1 || width == stride ? 0 : rows * width),
          data_(copy_.data() ? copy_.data() : data) {
        if (copy_.data()) copy_rows(data, stride, rows, width, data_, width);
    }
    operator const float*() const { return data_; }

 private:
    Scratch<float> copy_;
    float* data_;
};

// Keys and values of tokens, (tokens, heads d) each, to their places.
struct Stored {
    const float *k, *v;
    int64_t k_stride, v_stride, d, value_d, layer;
    Places places;
};

__global__ void store_keys(Stored s) {
    const int64_t head = blockIdx.x, row = blockIdx.y;
    const LayerKeys keys = s.places.of(row, s.layer);
    const int64_t place = head * keys.capacity + s.places.position(row);
    for (int64_t i = threadIdx.x; i < s.d; i += blockDim.x)
        keys.k[place * s.d + i] = s.k[row * s.k_stride + head * s.d + i];
    for (int64_t i = threadIdx.x; i < s.value_d; i += blockDim.x)
        keys.v[place * s.value_d + i] = s.v[row * s.v_stride + head * s.value_d + i];
}

// Fewer than many rows have the bits that each has alone.
void multiply_floats(const Linear& layer, const float* x, const float* residual, int64_t rows,
                     float* out) {
    const auto* weight = reinterpret_cast<const float*>(layer.weight);
    const int64_t m = layer.outputs, k = layer.inputs;
    if (rows >= many_rows)
        return kernels().linear_forward(x, weight, layer.bias, residual, rows, m, k, out);
    for (int64_t first = 0; first < rows; first += most_few_rows) {
        const int64_t n = rows - first < most_few_rows ? rows - first : most_few_rows;
        few_rows_forward(x + first * k, weight, layer.bias,
                         residual ? residual + first * m : nullptr, n, m, k, out + first * m);
    }
}

struct Plus {
    __device__ float operator()(int64_t, float a, float b) const { return a + b; }
};
struct Times {
    __device__ float operator()(int64_t, float a, float b) const { return a * b; }
};

}  // namespace

void Plan::run_steps(const Tokens& tokens) {
    int64_t rows = tokens.count;
    for (const Step& step : steps_) {
        run_step(step, rows, tokens);
        if (step.kind == Kind::select) rows = static_cast<int64_t>(tokens.wanted.size());
    }
}

void Plan::run_step(const Step& step, int64_t rows, const Tokens& tokens) {
    switch (step.kind) {
        case Kind::linear:
            return run_linears(&step, 1, rows);
        case Kind::rms_norm:
        case Kind::layer_norm:
            return run_norm(step, rows);
        case Kind::rotate: {
            const int64_t heads = step.out.width / step.width;
            const TokenHeads all{rows,
                                 heads,
                                 step.width,
                                 widths_[step.a.slot],
                                 widths_[step.out.slot],
                                 at(step.a, 0),
                                 at(step.out, 0)};
            return turn_tokens(all, tokens.cos, tokens.sin, device_->places.places());
        }
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
                        copy_rows(data_[slot] + tokens.wanted[i] * widths_[slot], 0, 1,
                                  widths_[slot], data_[slot] + i * widths_[slot], 0);
            return;
    }
}

void Plan::run_elements(const Step& step, int64_t rows) const {
    const int64_t width = step.out.width, all = rows * width;
    const bool two = step.kind != Kind::activate;
    const Rows a(at(step.a, 0), rows, width, widths_[step.a.slot]);
    const Rows b(at(step.b, 0), two ? rows : 0, width, widths_[step.b.slot]);
    const float *left = a, *right = b;
    float* out = at(step.out, 0);
    if (step.kind == Kind::add)
        for_each_element(all, Plus(), out, left, right);
    else if (step.kind == Kind::multiply)
        for_each_element(all, Times(), out, left, right);
    else if (step.activation == Activation::silu)
        kernels().silu_forward(left, all, out);
    else
        kernels().gelu_forward(left, all, step.activation == Activation::gelu_tanh, out);
}

void Plan::run_linears(const Step* step, int64_t, int64_t rows) const {
    const View b = step->b;
    const Linear& layer = step->layer;
    const Rows x(at(step->a, 0), rows, layer.inputs, widths_[step->a.slot]);
    const Rows added(at(b, 0), step->has_b ? rows : 0, layer.outputs, widths_[b.slot]);
    const float* residual = step->has_b ? static_cast<const float*>(added) : nullptr;
    float* out = at(step->out, 0);
    if (layer.kind == 0) return multiply_floats(layer, x, residual, rows, out);
    const BlockProduct product{layer.kind,    layer.weight, x,  layer.bias, residual, rows,
                               layer.outputs, layer.inputs, out};
    kernels().block_linear_forward(&product, 1);
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
    const Places places = device_->places.places();
    const Stored stored{
        at(step.b, 0), at(step.c, 0), widths_[step.b.slot], widths_[step.c.slot], a.d, a.value_d,
        a.layer,       places};
    const dim3 grid(static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(tokens.count));
    launch(store_keys, grid, 2 * warp_size, 0, stored);
    if (tokens.count >= many_rows) return attend_once(step, tokens, 0, tokens.count);
    attend_few({tokens.count,
                a,
                {at(step.a, 0), 0, a.d, widths_[step.a.slot]},
                {at(step.out, 0), 0, a.value_d, widths_[step.out.slot]},
                places},
               device_->most_keys, device_->places.by_fours(), device_->splits.at_least(0));
}

// `rows` consecutive tokens of one text, the first of them `first`.
void Plan::attend_once(const Step& step, const Tokens& tokens, int64_t first, int64_t rows) const {
    const CachedAttention& a = step.attention;
    const LayerKeys& keys = (*tokens.keys[tokens.texts[first]])[a.layer];
    const int64_t last = tokens.positions[first];
    const Scratch<float> lse(a.heads * rows);
    const Attention attention{1,
                              a.heads,
                              a.kv_heads,
                              rows,
                              last + rows,
                              a.d,
                              a.value_d,
                              {at(step.a, first), 0, a.d, widths_[step.a.slot]},
                              {keys.k, 0, keys.capacity * a.d, a.d},
                              {keys.v, 0, keys.capacity * a.value_d, a.value_d},
                              {},
                              true,
                              last,
                              a.scale,
                              a.window};
    kernels().attention_forward(
        attention, {at(step.out, first), 0, a.value_d, widths_[step.out.slot]}, lse.data());
}

}  // namespace minillm
