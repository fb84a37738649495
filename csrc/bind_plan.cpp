// The compiled token step: built once from what Python recorded of a model, run for every token.
#include <pybind11/stl.h>

#include <mutex>
#include <string>

#include "bindings.h"
#include "plan.h"

namespace minillm {
namespace {

using Place = std::tuple<int, int64_t, int64_t>;  // a View, as Python has it

// The keys and values of a text: views of the caller's arrays, which it holds.
struct BoundKeys {
    Keys layers;
    std::vector<int64_t> heads, d, value_d;
    pybind11::object arrays;
};

BoundKeys bind_keys(const pybind11::list& pairs) {
    const Arguments args("keys");
    BoundKeys bound;
    bound.arrays = pairs;
    for (const auto& pair : pairs) {
        const auto [k, v] = pair.cast<std::pair<Array, Array>>();
        const auto [one, heads, capacity, d] = args.sizes<4>(k, "k");
        const int64_t value_d = args.sizes<4>(v, "v")[3];
        if (one != 1) args.fail("k has a batch of " + std::to_string(one) + ", 1 is needed");
        bound.layers.push_back({args.output(k, "k", {1, heads, capacity, d}),
                                args.output(v, "v", {1, heads, capacity, value_d}), capacity});
        bound.heads.push_back(heads);
        bound.d.push_back(d);
        bound.value_d.push_back(value_d);
    }
    return bound;
}

Activation activation_of(const std::string& name) {
    if (name == "gelu") return Activation::gelu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    if (name == "silu") return Activation::silu;
    throw std::invalid_argument("plan: activation '" + name + "' is not known");
}

// A Plan that holds the arrays its steps point into and checks what it is given.
class BoundPlan {
 public:
    explicit BoundPlan(const std::vector<int64_t>& widths) : plan_(widths), widths_(widths) {
        if (widths.empty()) args_.fail("no slots given, at least 1 is needed");
    }

    void linear(Place out, Place x, const std::optional<Place>& residual, int kind,
                const Array& weight, const Array& bias, int64_t outputs, int64_t inputs) {
        const View result = view(out), input = view(x);
        const BlockSize size = block_size(args_, kind);
        args_.require_type(weight, "weight", Type::bytes);
        args_.require_contiguous(weight, "weight");
        require(
            result.width == outputs && input.width == inputs && inputs % size.numbers == 0 &&
                args_.elements(weight, "weight") == outputs * (inputs / size.numbers) * size.bytes,
            "linear");
        if (kind != 0 && !kernels().block_linear_forward)
            args_.fail("weights in blocks have no kernel here, float32 is needed");
        hold(weight.source);
        View added{};
        if (residual) {
            added = view(*residual);
            require(added.width == outputs, "linear");
        }
        plan_.linear(result, input, residual ? &added : nullptr,
                     {kind, static_cast<const uint8_t*>(weight.data),
                      optional(bias, "bias", outputs), outputs, inputs});
    }
    void rms_norm(Place out, Place x, const Array& weight, double eps, int64_t width) {
        const View result = same(out, x, width);
        plan_.rms_norm(result, view(x), optional(weight, "weight", width), eps, width);
    }
    void layer_norm(Place out, Place x, const Array& weight, const Array& bias, double eps,
                    int64_t width) {
        const View result = same(out, x, width);
        plan_.layer_norm(result, view(x), optional(weight, "weight", width),
                         optional(bias, "bias", width), eps, width);
    }
    void rotate(Place out, Place x, int64_t head) {
        require(half_ == 0 || half_ == head / 2, "rotate");
        half_ = head / 2;
        plan_.rotate(same(out, x, head), view(x), head);
    }
    void attend(Place out, Place q, Place k, Place v, int layer, int64_t heads, int64_t kv_heads,
                double scale, int64_t window) {
        const View result = view(out), queries = view(q), keys = view(k), values = view(v);
        require(layer == static_cast<int>(layers_.size()) && heads > 0 && kv_heads > 0 &&
                    heads % kv_heads == 0 && window >= 0 && queries.width % heads == 0,
                "attend");
        const int64_t d = queries.width / heads, value_d = values.width / kv_heads;
        require(keys.width == kv_heads * d && values.width == kv_heads * value_d &&
                    result.width == heads * value_d,
                "attend");
        const CachedAttention attention{
            layer, heads, kv_heads, d, value_d, static_cast<float>(scale), window};
        layers_.push_back(attention);
        plan_.attend(result, queries, keys, values, attention);
    }
    void activate(Place out, Place x, const std::string& name) {
        plan_.activate(same(out, x, 1), view(x), activation_of(name));
    }
    void add(Place out, Place a, Place b) {
        require(view(a).width == view(b).width, "add");
        plan_.add(same(out, a, 1), view(a), view(b));
    }
    void multiply(Place out, Place a, Place b) {
        require(view(a).width == view(b).width, "multiply");
        plan_.multiply(same(out, a, 1), view(a), view(b));
    }
    void select(const std::vector<int>& slots) {
        for (const int slot : slots) require(slot >= 0 && slot < plan_.slots(), "select");
        plan_.select(slots);
    }

    void run(const std::vector<Array>& inputs, const std::vector<int64_t>& positions,
             const std::vector<int64_t>& texts, const std::vector<const BoundKeys*>& keys,
             const Array& cos, const Array& sin, const std::vector<int64_t>& wanted,
             const Array& out) {
        const auto count = static_cast<int64_t>(positions.size());
        const int64_t *position = positions.data(), *text = texts.data();
        require(texts.size() == positions.size(), "texts");
        for (int64_t i = 0; i < count; i++)
            require_below(text[i], static_cast<int64_t>(keys.size()), "texts", i);
        std::vector<const float*> rows;
        for (size_t i = 0; i < inputs.size(); i++)
            rows.push_back(args_.input(inputs[i], "input", {count, widths_[i]}));
        int64_t angles = 0;
        if (half_) angles = args_.sizes<2>(cos, "cos")[0];
        const float* cosines = half_ ? args_.input(cos, "cos", {angles, half_}) : nullptr;
        const float* sines = half_ ? args_.input(sin, "sin", {angles, half_}) : nullptr;
        std::vector<const Keys*> pointers;
        std::vector<int64_t> room(keys.size(), half_ ? angles : INT64_MAX);
        for (size_t i = 0; i < keys.size(); i++) {
            check(*keys[i]);
            pointers.push_back(&keys[i]->layers);
            for (const LayerKeys& layer : keys[i]->layers)
                room[i] = std::min(room[i], layer.capacity);
        }
        for (int64_t i = 1; i < count && count >= many_rows; i++)
            if (text[i] != text[0]) args_.fail("so many tokens must belong to one text");
        for (int64_t i = 0; i < count; i++)
            require_below(position[i], room[text[i]], "positions", i);
        int64_t before = -1;
        for (const int64_t row : wanted) {
            if (row <= before || row >= count) args_.fail("wanted rows must rise below the tokens");
            before = row;
        }
        float* result =
            args_.output(out, "out", {static_cast<int64_t>(wanted.size()), widths_.back()});
        const Unlocked unlocked;
        const std::lock_guard<std::mutex> alone(running_);  // there is one working memory
        plan_.run(rows, {count, position, text, pointers.data(), cosines, sines, wanted}, result);
    }

 private:
    static void require_below(int64_t number, int64_t limit, const char* name, int64_t place) {
        if (number < 0 || number >= limit)
            throw std::out_of_range("plan: " + std::string(name) + "[" + std::to_string(place) +
                                    "] is " + std::to_string(number) + ", ids from 0 to " +
                                    std::to_string(limit - 1) + " are needed");
    }
    void require(bool held, const char* step) const {
        if (!held) args_.fail(std::string(step) + ": sizes do not fit together");
    }
    View view(const Place& place) const {
        const auto [slot, offset, width] = place;
        require(slot >= 0 && slot < plan_.slots() && offset >= 0 && width > 0 &&
                    offset + width <= widths_[slot],
                "view");
        return {slot, offset, width};
    }
    View same(const Place& out, const Place& x, int64_t unit) const {
        const View result = view(out);
        require(result.width == view(x).width && unit > 0 && result.width % unit == 0, "step");
        return result;
    }
    void check(const BoundKeys& keys) const {
        require(keys.layers.size() == layers_.size(), "keys");
        for (size_t i = 0; i < layers_.size(); i++)
            require(keys.heads[i] == layers_[i].kv_heads && keys.d[i] == layers_[i].d &&
                        keys.value_d[i] == layers_[i].value_d,
                    "keys");
    }
    const float* optional(const Array& array, const char* name, int64_t n) {
        if (array.given) hold(array.source);
        return args_.optional_input(array, name, {n});
    }
    void hold(const pybind11::object& array) { held_.append(array); }

    const Arguments args_{"plan"};
    Plan plan_;
    std::vector<int64_t> widths_;
    std::vector<CachedAttention> layers_;
    int64_t half_ = 0;
    pybind11::list held_;
    std::mutex running_;
};

}  // namespace

void bind_plan(pybind11::module_& runtime) {
    using pybind11::arg;
    pybind11::class_<BoundKeys>(runtime, "Keys", "Where a text's keys and values lie.")
        .def(pybind11::init(&bind_keys), arg("pairs"));
    pybind11::class_<BoundPlan>(runtime, "Plan", "A token step as a list of kernel calls.")
        .def(pybind11::init<const std::vector<int64_t>&>(), arg("widths"))
        .def("linear", &BoundPlan::linear, arg("out"), arg("x"), arg("residual"), arg("kind"),
             arg("weight"), arg("bias"), arg("outputs"), arg("inputs"))
        .def("rms_norm", &BoundPlan::rms_norm, arg("out"), arg("x"), arg("weight"), arg("eps"),
             arg("width"))
        .def("layer_norm", &BoundPlan::layer_norm, arg("out"), arg("x"), arg("weight"), arg("bias"),
             arg("eps"), arg("width"))
        .def("rotate", &BoundPlan::rotate, arg("out"), arg("x"), arg("head"))
        .def("attend", &BoundPlan::attend, arg("out"), arg("q"), arg("k"), arg("v"), arg("layer"),
             arg("heads"), arg("kv_heads"), arg("scale"), arg("window"))
        .def("activate", &BoundPlan::activate, arg("out"), arg("x"), arg("name"))
        .def("add", &BoundPlan::add, arg("out"), arg("a"), arg("b"))
        .def("multiply", &BoundPlan::multiply, arg("out"), arg("a"), arg("b"))
        .def("select", &BoundPlan::select, arg("slots"))
        .def("run", &BoundPlan::run, arg("inputs"), arg("positions"), arg("texts"), arg("keys"),
             arg("cos"), arg("sin"), arg("wanted"), arg("out"));
}

}  // namespace minillm
