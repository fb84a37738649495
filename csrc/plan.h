// A model's token step as a list of kernel calls: what Python would dispatch one by one for every
// token runs here in one go. Rows are tokens; each belongs to a text and has a position in it.
#pragma once

#include <stdint.h>

#include <memory>
#include <vector>

#include "kernels.h"

namespace minillm {

// Part of the rows of a slot of working memory.
struct View {
    int slot;
    int64_t offset, width;

    bool operator!=(const View& other) const {
        return slot != other.slot || offset != other.offset || width != other.width;
    }
};

// Keys and values of a text: for each layer (heads, capacity, d), contiguous.
struct LayerKeys {
    float *k, *v;
    int64_t capacity;
};
using Keys = std::vector<LayerKeys>;

// The tokens of one call.
struct Tokens {
    int64_t count;
    const int64_t* positions;  // of each token, in its text
    const int64_t* texts;      // of each token, which of `keys`; a text's tokens lie together
    const Keys* const* keys;   // by text
    const float *cos, *sin;    // (positions, half of a head)
    const std::vector<int64_t>& wanted;  // rows that the result is asked for, ascending
};

struct Linear {
    int kind;  // ggml's number of the tensor type
    const uint8_t* weight;
    const float* bias;
    int64_t outputs, inputs;
};

struct CachedAttention {
    int layer;
    int64_t heads, kv_heads, d, value_d;
    float scale;
    int64_t window;  // positions that a token sees, itself the last; 0: all
};

// Memory that may grow, which loses what it holds; the device's where that computes.
class GrowingMemory {
 public:
    GrowingMemory() = default;
    ~GrowingMemory();
    GrowingMemory(const GrowingMemory&) = delete;
    GrowingMemory& operator=(const GrowingMemory&) = delete;
    float* at_least(int64_t floats);
    void release();

 private:
    float* data_ = nullptr;
    int64_t floats_ = 0;
};

// Built by plan.cpp; plan_run.cpp runs it on the host, cuda/plan_run.cu on a device, whose are then
// all floats, while positions and texts of tokens are always the host's.
class Plan {
 public:
    static constexpr int64_t most_together = 4;  // products of the same rows

    // Floats of a row of each slot. The result is written to the last slot.
    explicit Plan(std::vector<int64_t> widths);
    ~Plan();

    void linear(View out, View x, const View* residual, const Linear& layer);
    void rms_norm(View out, View x, const float* weight, double eps, int64_t width);
    void layer_norm(View out, View x, const float* weight, const float* bias, double eps,
                    int64_t width);
    void rotate(View out, View x, int64_t head);
    void attend(View out, View q, View k, View v, const CachedAttention& attention);
    void activate(View out, View x, Activation activation);
    void add(View out, View a, View b);
    void multiply(View out, View a, View b);
    void select(std::vector<int> slots);  // from here on only the rows that are wanted

    // inputs[i] (tokens, width of slot i) are copied to the first slots; result (wanted, width).
    void run(const std::vector<const float*>& inputs, const Tokens& tokens, float* result);

    int64_t width(int slot) const { return widths_[slot]; }
    int64_t slots() const { return static_cast<int64_t>(widths_.size()); }

 private:
    enum class Kind {
        linear,
        rms_norm,
        layer_norm,
        rotate,
        attend,
        activate,
        add,
        multiply,
        select
    };
    struct Step {
        Kind kind;
        View out, a, b, c;
        bool has_b;
        Linear layer;
        bool joins;  // the products before, with the same x
        const float *weight, *bias;
        double eps;
        int64_t width;
        CachedAttention attention;
        Activation activation;
        std::vector<int> slots;
    };

    struct OnDevice;  // cuda/plan_device.h

    Step& append(Kind kind, View out, View a);
    int64_t place_beside(View out, View x) const;
    float* at(View view, int64_t row) const;
    void make_room(const Tokens& tokens);
    void run_as_graph(const Tokens& tokens, float* result);
    void run_steps(const Tokens& tokens);
    void run_step(const Step& step, int64_t rows, const Tokens& tokens);
    void run_elements(const Step& step, int64_t rows) const;
    void run_linears(const Step* steps, int64_t count, int64_t rows) const;
    void run_norm(const Step& step, int64_t rows);
    void run_attention(const Step& step, const Tokens& tokens) const;
    void attend_once(const Step& step, const Tokens& tokens, int64_t first, int64_t rows) const;

    std::vector<int64_t> widths_;
    std::vector<GrowingMemory> memory_;
    std::vector<float*> data_;
    GrowingMemory spare_;  // what kernels give and nobody reads
    std::vector<Step> steps_;
    std::shared_ptr<OnDevice> device_;
};

}  // namespace minillm
