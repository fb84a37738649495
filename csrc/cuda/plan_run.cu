// A plan run on a device: each step is a launch or a few, and no step waits. Positions and texts of
// the tokens are known to the host.
#include <algorithm>

#include "../plan.h"
#include "elements.h"
#include "few_queries.h"
#include "kernels.h"

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

// The rows of one text among the tokens.
struct Stretch {
    int64_t first, rows;
};

template <class F>
void over_texts(const Tokens& tokens, const F& work) {
    for (int64_t first = 0, end; first < tokens.count; first = end) {
        end = first + 1;
        while (end < tokens.count && tokens.texts[end] == tokens.texts[first]) end++;
        work(Stretch{first, end - first});
    }
}

// Keys and values of consecutive tokens, (rows, heads d) each, to their places.
struct Stored {
    const float *k, *v;
    int64_t k_stride, v_stride, heads, d, value_d, capacity, position;
    float *keys, *values;
};

__global__ void store_keys(Stored s) {
    const int64_t head = blockIdx.x, row = blockIdx.y;
    const int64_t place = head * s.capacity + s.position + row;
    for (int64_t i = threadIdx.x; i < s.d; i += blockDim.x)
        s.keys[place * s.d + i] = s.k[row * s.k_stride + head * s.d + i];
    for (int64_t i = threadIdx.x; i < s.value_d; i += blockDim.x)
        s.values[place * s.value_d + i] = s.v[row * s.v_stride + head * s.value_d + i];
}

struct Plus {
    __device__ float operator()(int64_t, float a, float b) const { return a + b; }
};
struct Times {
    __device__ float operator()(int64_t, float a, float b) const { return a * b; }
};

}  // namespace

GrowingMemory::~GrowingMemory() {
    if (data_) cudaFreeAsync(data_, current_stream());
}

float* GrowingMemory::at_least(int64_t floats) {
    if (floats_ >= floats) return data_;
    if (data_) check(cudaFreeAsync(data_, current_stream()), "plan");
    data_ = nullptr;
    floats_ = 0;
    check(
        cudaMallocAsync(reinterpret_cast<void**>(&data_), sizeof(float) * floats, current_stream()),
        "plan");
    floats_ = floats;
    return data_;
}

void Plan::run(const std::vector<const float*>& inputs, const Tokens& tokens, float* result) {
    int64_t widest = 0;
    for (size_t slot = 0; slot + 1 < widths_.size(); slot++) {
        data_[slot] = memory_[slot].at_least(tokens.count * widths_[slot]);
        widest = std::max(widest, widths_[slot]);
    }
    data_.back() = result;
    spare_.at_least(2 * tokens.count * widest);
    for (size_t i = 0; i < inputs.size(); i++)
        copy_rows(inputs[i], widths_[i], tokens.count, widths_[i], data_[i], widths_[i]);
    int64_t rows = tokens.count;
    for (const Step& step : steps_) {
        run_step(step, rows, tokens);
        if (step.kind == Kind::select) rows = static_cast<int64_t>(tokens.wanted.size());
    }
}

void Plan::run_step(const Step& step, int64_t rows, const Tokens& tokens) {
    const int64_t width = step.out.width;
    // f(first row, how many numbers from there): at once where the rows of all views lie together.
    const auto in_rows = [&](const auto& f) {
        bool together = rows == 1;
        if (!together) {
            together = widths_[step.out.slot] == width && widths_[step.a.slot] == width;
            const bool two = step.kind == Kind::add || step.kind == Kind::multiply;
            together = together && (!two || widths_[step.b.slot] == width);
        }
        if (together) return f(0, rows * width);
        for (int64_t i = 0; i < rows; i++) f(i, width);
    };
    switch (step.kind) {
        case Kind::linear:
            return run_linears(&step, 1, rows);
        case Kind::rms_norm:
        case Kind::layer_norm:
            return run_norm(step, rows);
        case Kind::rotate:
            for (int64_t i = 0; i < rows; i++) {
                const int64_t half = step.width / 2, angle = tokens.positions[i] * half;
                kernels().rotary_forward(at(step.a, i), tokens.cos + angle, tokens.sin + angle,
                                         width / step.width, 1, step.width, half, false,
                                         at(step.out, i));
            }
            return;
        case Kind::attend:
            return run_attention(step, tokens);
        case Kind::activate:
            return in_rows([&](int64_t i, int64_t n) {
                if (step.activation == Activation::silu)
                    return kernels().silu_forward(at(step.a, i), n, at(step.out, i));
                kernels().gelu_forward(at(step.a, i), n, step.activation == Activation::gelu_tanh,
                                       at(step.out, i));
            });
        case Kind::add:
        case Kind::multiply:
            return in_rows([&](int64_t i, int64_t n) {
                const float *a = at(step.a, i), *b = at(step.b, i);
                if (step.kind == Kind::add)
                    for_each_element(n, Plus(), at(step.out, i), a, b);
                else
                    for_each_element(n, Times(), at(step.out, i), a, b);
            });
        case Kind::select:
            for (const int slot : step.slots)
                for (size_t i = 0; i < tokens.wanted.size(); i++)
                    if (tokens.wanted[i] != static_cast<int64_t>(i))
                        copy_rows(data_[slot] + tokens.wanted[i] * widths_[slot], 0, 1,
                                  widths_[slot], data_[slot] + i * widths_[slot], 0);
            return;
    }
}

void Plan::run_linears(const Step* step, int64_t, int64_t rows) const {
    const View b = step->b;
    const Linear& layer = step->layer;
    const Rows x(at(step->a, 0), rows, layer.inputs, widths_[step->a.slot]);
    const Rows added(at(b, 0), step->has_b ? rows : 0, layer.outputs, widths_[b.slot]);
    const float* residual = step->has_b ? static_cast<const float*>(added) : nullptr;
    float* out = at(step->out, 0);
    if (layer.kind == 0)
        return kernels().linear_forward(x, reinterpret_cast<const float*>(layer.weight), layer.bias,
                                        residual, rows, layer.outputs, layer.inputs, out);
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
    over_texts(tokens, [&](const Stretch& s) {
        const LayerKeys& keys = (*tokens.keys[tokens.texts[s.first]])[a.layer];
        const Stored stored{at(step.b, s.first),
                            at(step.c, s.first),
                            widths_[step.b.slot],
                            widths_[step.c.slot],
                            a.kv_heads,
                            a.d,
                            a.value_d,
                            keys.capacity,
                            tokens.positions[s.first],
                            keys.k,
                            keys.v};
        const dim3 grid(static_cast<unsigned>(a.kv_heads), static_cast<unsigned>(s.rows));
        launch(store_keys, grid, 2 * warp_size, 0, stored);
        if (s.rows >= many_rows && !a.window) return attend_once(step, tokens, s.first, s.rows);
        const int64_t last = tokens.positions[s.first];
        const int64_t few = a.window ? s.rows : std::clamp(most_keys - last, int64_t{0}, s.rows);
        attend_few({few,
                    a.heads,
                    a.kv_heads,
                    a.d,
                    a.value_d,
                    keys.capacity,
                    {at(step.a, s.first), 0, a.d, widths_[step.a.slot]},
                    keys.k,
                    keys.v,
                    {at(step.out, s.first), 0, a.value_d, widths_[step.out.slot]},
                    last,
                    a.window,
                    a.scale});
        for (int64_t i = few; i < s.rows; i++) attend_once(step, tokens, s.first + i, 1);
    });
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
                              a.scale};
    kernels().attention_forward(
        attention, {at(step.out, first), 0, a.value_d, widths_[step.out.slot]}, lse.data());
}

}  // namespace minillm
