#include "bindings.h"

namespace minillm {
namespace {

// A 4-D array of heads whose last axis is contiguous.
template <class T>
Heads<T> heads_of(const Arguments& args, const Array& a, const char* name,
                  std::array<int64_t, 4> shape) {
    args.require_shape(a, name, {shape[0], shape[1], shape[2], shape[3]});
    args.require_type(a, name, Type::float32);
    if (shape[3] > 1 && a.strides[3] != sizeof(float) && args.elements(a, name) > 0)
        args.fail(std::string(name) + " is not contiguous along its last axis, a copy is needed");
    if (!std::is_const_v<T>) args.require_writable(a, name);
    return {static_cast<T*>(a.data), a.strides[0] / 4, a.strides[1] / 4, a.strides[2] / 4};
}

AttentionMask mask_of(const Arguments& args, const Array& mask, std::array<int64_t, 4> shape) {
    AttentionMask result;
    if (!mask.given) return result;
    args.require_rank(mask, "mask", 4);
    const bool boolean = mask.type == Type::boolean;
    args.require_type(mask, "mask", boolean ? Type::boolean : Type::float32);
    int64_t strides[4];
    for (int axis = 0; axis < 4; axis++) {
        const bool repeated = mask.shape[axis] == 1;
        if (!repeated && mask.shape[axis] != shape[axis])
            args.fail("mask has shape " + shape_of(mask) + ", axes of size 1 or " +
                      std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ", " +
                      std::to_string(shape[2]) + ", " + std::to_string(shape[3]) + " are needed");
        strides[axis] = repeated ? 0 : mask.strides[axis] / (boolean ? 1 : 4);
    }
    if (boolean)
        result.allowed = static_cast<const uint8_t*>(mask.data);
    else
        result.additive = static_cast<const float*>(mask.data);
    result.batch_stride = strides[0];
    result.head_stride = strides[1];
    result.row_stride = strides[2];
    result.col_stride = strides[3];
    return result;
}

// The gradient of what a mask adds, its axes of queries and keys full, the others of 1 or full.
void add_gradient(const Arguments& args, Attention& a, const Array& dmask) {
    if (!dmask.given) return;
    const auto [batch, heads, rows, cols] = args.sizes<4>(dmask, "dmask");
    if (!on_device || !a.mask.additive || (batch != 1 && batch != a.batch) ||
        (heads != 1 && heads != a.heads) || rows != a.q_rows || cols != a.k_rows)
        args.fail("dmask has shape " + shape_of(dmask) + ", the sizes of a mask that is added, " +
                  std::to_string(a.q_rows) + " rows and " + std::to_string(a.k_rows) +
                  " columns, on a GPU, are needed");
    a.mask.gradient = args.output(dmask, "dmask", {batch, heads, rows, cols});
    a.mask.gradient_batch = batch;
    a.mask.gradient_heads = heads;
}

Attention attention_of(const Arguments& args, const Array& q, const Array& k, const Array& v,
                       const Array& mask, bool causal, int64_t offset, double scale,
                       int64_t window) {
    if (window < 0 || (window > 0 && !(on_device && causal)))
        args.fail("window " + std::to_string(window) +
                  ", 0, or with causality on a GPU 1 or more is needed");
    const auto [batch, heads, q_rows, d] = args.sizes<4>(q, "q");
    const auto kv_heads = args.sizes<4>(k, "k")[1], k_rows = args.sizes<4>(k, "k")[2];
    const auto value_d = args.sizes<4>(v, "v")[3];
    if (kv_heads > 0 ? heads % kv_heads != 0 : heads != 0)
        args.fail("q has " + std::to_string(heads) + " heads and k " + std::to_string(kv_heads) +
                  ", a multiple is needed");
    return {batch,
            heads,
            kv_heads,
            q_rows,
            k_rows,
            d,
            value_d,
            heads_of<const float>(args, q, "q", {batch, heads, q_rows, d}),
            heads_of<const float>(args, k, "k", {batch, kv_heads, k_rows, d}),
            heads_of<const float>(args, v, "v", {batch, kv_heads, k_rows, value_d}),
            mask_of(args, mask, {batch, heads, q_rows, k_rows}),
            causal,
            offset,
            static_cast<float>(scale),
            window};
}

void forward(const Array& q, const Array& k, const Array& v, const Array& mask, bool causal,
             int64_t offset, double scale, const Array& out, const Array& lse, int64_t window) {
    const Arguments args("scaled_dot_product_attention_forward");
    const Attention a = attention_of(args, q, k, v, mask, causal, offset, scale, window);
    const auto out_heads =
        heads_of<float>(args, out, "out", {a.batch, a.heads, a.q_rows, a.value_d});
    auto* lse_data = args.output(lse, "lse", {a.batch, a.heads, a.q_rows});
    const Unlocked unlocked;
    kernels().attention_forward(a, out_heads, lse_data);
}

void backward(const Array& grad, const Array& q, const Array& k, const Array& v, const Array& mask,
              const Array& out, const Array& lse, bool causal, int64_t offset, double scale,
              const Array& dq, const Array& dk, const Array& dv, int64_t window,
              const Array& dmask) {
    const Arguments args("scaled_dot_product_attention_backward");
    Attention a = attention_of(args, q, k, v, mask, causal, offset, scale, window);
    add_gradient(args, a, dmask);
    const std::array<int64_t, 4> out_shape{a.batch, a.heads, a.q_rows, a.value_d};
    const auto grad_heads = heads_of<const float>(args, grad, "grad", out_shape);
    const auto out_heads = heads_of<const float>(args, out, "out", out_shape);
    const auto* lse_data = args.input(lse, "lse", {a.batch, a.heads, a.q_rows});
    const auto dq_heads = heads_of<float>(args, dq, "dq", {a.batch, a.heads, a.q_rows, a.d});
    const auto dk_heads = heads_of<float>(args, dk, "dk", {a.batch, a.kv_heads, a.k_rows, a.d});
    const auto dv_heads =
        heads_of<float>(args, dv, "dv", {a.batch, a.kv_heads, a.k_rows, a.value_d});
    const Unlocked unlocked;
    kernels().attention_backward(a, grad_heads, out_heads, lse_data, dq_heads, dk_heads, dv_heads);
}

// The heads that lie side by side in (batch, rows, heads, d), from `first` on.
template <class T>
Heads<T> packed_heads(T* data, int64_t rows, int64_t heads, int64_t first, int64_t d) {
    return {data + first * d, rows * heads * d, d, heads * d};
}

// The sizes that qkv (batch, rows, (heads + 2 kv_heads) d), lse (batch, heads, rows) and an array
// (batch, rows, heads d) agree on; queries, keys and values are views of qkv.
Attention packed_attention_of(const Arguments& args, const Array& qkv, const Array& out,
                              const Array& lse, bool causal, double scale) {
    const auto [batch, rows, width] = args.sizes<3>(qkv, "qkv");
    const auto heads = args.sizes<3>(lse, "lse")[1], out_width = args.sizes<3>(out, "out")[2];
    const int64_t d = heads > 0 ? out_width / heads : 0, all = d > 0 ? width / d : 0;
    const int64_t kv_heads = (all - heads) / 2;
    if (kv_heads < 1 || heads * d != out_width || (heads + 2 * kv_heads) * d != width ||
        heads % kv_heads != 0)
        args.fail("qkv has shape " + shape_of(qkv) + " and out " + shape_of(out) + " for " +
                  std::to_string(heads) +
                  " heads, (batch, rows, (heads + 2 kv_heads) d) and "
                  "(batch, rows, heads d) are needed");
    const auto* data = args.input(qkv, "qkv", {batch, rows, width});
    return {batch,
            heads,
            kv_heads,
            rows,
            rows,
            d,
            d,
            packed_heads(data, rows, all, 0, d),
            packed_heads(data, rows, all, heads, d),
            packed_heads(data, rows, all, heads + kv_heads, d),
            {},
            causal,
            0,
            static_cast<float>(scale)};
}

void packed_forward(const Array& qkv, bool causal, double scale, const Array& out,
                    const Array& lse) {
    const Arguments args("packed_attention_forward");
    const Attention a = packed_attention_of(args, qkv, out, lse, causal, scale);
    auto* out_data = args.output(out, "out", {a.batch, a.q_rows, a.heads * a.d});
    auto* lse_data = args.output(lse, "lse", {a.batch, a.heads, a.q_rows});
    const Unlocked unlocked;
    kernels().attention_forward(a, packed_heads(out_data, a.q_rows, a.heads, 0, a.d), lse_data);
}

void packed_backward(const Array& grad, const Array& qkv, const Array& out, const Array& lse,
                     bool causal, double scale, const Array& dqkv) {
    const Arguments args("packed_attention_backward");
    const Attention a = packed_attention_of(args, qkv, out, lse, causal, scale);
    const int64_t rows = a.q_rows, all = a.heads + 2 * a.kv_heads;
    const auto* grad_data = args.input(grad, "grad", {a.batch, rows, a.heads * a.d});
    const auto* out_data = args.input(out, "out", {a.batch, rows, a.heads * a.d});
    const auto* lse_data = args.input(lse, "lse", {a.batch, a.heads, rows});
    auto* data = args.output(dqkv, "dqkv", {a.batch, rows, all * a.d});
    const Unlocked unlocked;
    kernels().attention_backward(a, packed_heads(grad_data, rows, a.heads, 0, a.d),
                                 packed_heads(out_data, rows, a.heads, 0, a.d), lse_data,
                                 packed_heads(data, rows, all, 0, a.d),
                                 packed_heads(data, rows, all, a.heads, a.d),
                                 packed_heads(data, rows, all, a.heads + a.kv_heads, a.d));
}

}  // namespace

void bind_attention(pybind11::module_& module) {
    using pybind11::arg;
    module.def("scaled_dot_product_attention_forward", forward, arg("q"), arg("k"), arg("v"),
               arg("mask"), arg("causal"), arg("offset"), arg("scale"), arg("out"), arg("lse"),
               arg("window") = 0);
    module.def("scaled_dot_product_attention_backward", backward, arg("grad"), arg("q"), arg("k"),
               arg("v"), arg("mask"), arg("out"), arg("lse"), arg("causal"), arg("offset"),
               arg("scale"), arg("dq"), arg("dk"), arg("dv"), arg("window") = 0,
               arg("dmask") = pybind11::none());
    module.def("packed_attention_forward", packed_forward, arg("qkv"), arg("causal"), arg("scale"),
               arg("out"), arg("lse"));
    module.def("packed_attention_backward", packed_backward, arg("grad"), arg("qkv"), arg("out"),
               arg("lse"), arg("causal"), arg("scale"), arg("dqkv"));
}

}  // namespace minillm
