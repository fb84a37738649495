// The functions that an instruction set (or another device) offers, one table of pointers for each.
// All arrays are contiguous and of float unless said; sizes and shapes have been checked by the
// caller. Inputs are never written, outputs are written completely.
#pragma once

#include <stdint.h>

namespace minillm {

// From so many rows on a product with blocks takes other kernels, whose bits differ, and the tokens
// of one text attend at once.
constexpr int64_t many_rows = 32;

// A matrix in the caller's memory; strides count elements and may be 0 or negative.
struct Matrix {
    const float* data;
    int64_t rows, cols, row_stride, col_stride;
};

// out (n, m) = x (n, k) times a weight, transposed, + bias (m) + residual (n, m), which may be
// null. The weight is m rows of ggml's blocks, `kind` the number of their type.
struct BlockProduct {
    int kind;
    const uint8_t* blocks;
    const float *x, *bias, *residual;
    int64_t n, m, k;
    float* out;
};

// Where random numbers begin: `at` is where the device has it, else null and it is `value`.
struct Seed {
    uint64_t value;
    const uint64_t* at;
};

// An array that is only counted through.
struct Flat {
    const float* data;
    int64_t n;
};

// A parameter with its gradient and the moments that AdamW keeps of it.
struct Moments {
    float* param;
    const float* grad;
    float *m, *v;
    int64_t n;
};

struct AdamW {
    double lr, beta1, beta2, eps, weight_decay, grad_scale;
    int64_t step;  // the number of this update, from 1
};

// The same with moments of 8 bits: blocks of them share a scale.
constexpr int64_t moments_of_scale = 256;

struct Moments8bit {
    float* param;
    const float* grad;
    int8_t* m;
    float* m_scale;
    uint8_t* v;
    float* v_scale;
    int64_t n;
};

// A parameter with its gradient and the running sum of those.
struct Sums {
    float* param;
    const float* grad;
    float* buffer;
    int64_t n;
};

struct SGD {
    double lr, momentum, weight_decay, grad_scale;
};

// An array that goes a share of the way to another.
struct Way {
    float* start;
    const float* end;
    int64_t n;
};

// A matrix with its gradient and the mean of those that Muon keeps; `scale` times its learning
// rate.
struct Momentum {
    float* param;
    const float* grad;
    float* buffer;
    int64_t rows, cols;
    double scale;
};

struct Muon {
    double lr, momentum, weight_decay, eps, grad_scale;
    double a, b, c;  // of the quintic
    int64_t steps;   // of the iteration
    bool nesterov;
};

// Matrices of heads, T rows of contiguous D elements each; strides count elements.
template <class T>
struct Heads {
    T* data;
    int64_t batch_stride, head_stride, row_stride;
};

// What is added to the scores: nothing if both are null. Strides of repeated axes are 0.
struct AttentionMask {
    const float* additive = nullptr;
    const uint8_t* allowed = nullptr;  // 1: may attend
    int64_t batch_stride = 0, head_stride = 0, row_stride = 0, col_stride = 0;
    // Null if not wanted: the gradient of what is added, summed over an axis of size 1; it is
    // (gradient_batch, gradient_heads, q_rows, k_rows). Not on a processor.
    float* gradient = nullptr;
    int64_t gradient_batch = 0, gradient_heads = 0;
};

struct Attention {
    int64_t batch, heads, kv_heads, q_rows, k_rows, d, value_d;  // heads a multiple of kv_heads
    Heads<const float> q, k, v;
    AttentionMask mask;
    bool causal;  // row i attends to the rows of k up to offset + i
    int64_t offset;
    float scale;
    int64_t window = 0;  // to the last so many of these; to all if 0. Not on a processor.
};

// Where a gradient goes: nowhere if null; added to what is there, or written over it.
struct Gradient {
    float* data;
    bool add;
};

enum class Activation { gelu, gelu_tanh, silu };

// Two linear layers, rows (rows, inputs) to (rows, hidden) to (rows, outputs).
struct FeedForward {
    int64_t rows, inputs, hidden, outputs;
    Activation activation;
};

// An array of any shape and strides (in elements).
struct Strides {
    const float* data;
    int64_t axes;
    const int64_t *shape, *strides;
};

#define MINILLM_KERNELS(X)                                                                         \
    /* out[i] = a[i] b[i]; entry i of each batch starts at data + offsets[i] */                    \
    X(matmul_forward, (const Matrix& a, const int64_t* a_offsets, const Matrix& b,                 \
                       const int64_t* b_offsets, int64_t batch, float* out))                       \
    /* x (n, k), weight (m, k), out (n, m); bias (m) and residual (n, m) may be null */            \
    X(linear_forward, (const float* x, const float* weight, const float* bias,                     \
                       const float* residual, int64_t n, int64_t m, int64_t k, float* out))        \
    /* several with the same x, n and k, none's out another's residual; x may be rounded to 16     \
       bits, and below many_rows none of them changes the bits of another */                       \
    X(block_linear_forward, (const BlockProduct* products, int64_t count))                         \
    X(linear_backward, (const float* grad, const float* x, const float* weight, int64_t n,         \
                        int64_t m, int64_t k, Gradient dx, Gradient dweight, Gradient dbias))      \
    /* biases and residual may be null; hidden is what the activation gets */                      \
    X(feed_forward_forward, (const FeedForward& f, const float* x, const float* weight1,           \
                             const float* bias1, const float* weight2, const float* bias2,         \
                             const float* residual, float* hidden, float* out))                    \
    X(feed_forward_backward,                                                                       \
      (const FeedForward& f, const float* grad, const float* x, const float* weight1,              \
       const float* weight2, const float* hidden, Gradient dx, Gradient dweight1, Gradient dbias1, \
       Gradient dweight2, Gradient dbias2))                                                        \
    /* rows that are -inf throughout: softmax 0, log_softmax -inf, gradient 0 */                   \
    X(softmax_forward, (const float* x, int64_t rows, int64_t cols, float* out))                   \
    X(softmax_backward,                                                                            \
      (const float* grad, const float* out, int64_t rows, int64_t cols, float* dx))                \
    X(log_softmax_forward, (const float* x, int64_t rows, int64_t cols, float* out))               \
    X(log_softmax_backward,                                                                        \
      (const float* grad, const float* out, int64_t rows, int64_t cols, float* dx))                \
    /* weight and bias (cols) may be null; mean and rstd (rows); dx is wanted */                   \
    X(layer_norm_forward, (const float* x, const float* weight, const float* bias, double eps,     \
                           int64_t rows, int64_t cols, float* out, float* mean, float* rstd))      \
    X(layer_norm_backward, (const float* grad, const float* x, const float* weight,                \
                            const float* mean, const float* rstd, int64_t rows, int64_t cols,      \
                            Gradient dx, Gradient dweight, Gradient dbias))                        \
    X(rms_norm_forward, (const float* x, const float* weight, double eps, int64_t rows,            \
                         int64_t cols, float* out, float* rstd))                                   \
    X(rms_norm_backward,                                                                           \
      (const float* grad, const float* x, const float* weight, const float* rstd, int64_t rows,    \
       int64_t cols, Gradient dx, Gradient dweight))                                               \
    X(gelu_forward, (const float* x, int64_t n, bool tanh, float* out))                            \
    X(gelu_backward, (const float* grad, const float* x, int64_t n, bool tanh, float* dx))         \
    X(silu_forward, (const float* x, int64_t n, float* out))                                       \
    X(silu_backward, (const float* grad, const float* x, int64_t n, float* dx))                    \
    /* lse (batch, heads, q_rows); a row without anything to attend to gives 0 and -inf */         \
    X(attention_forward, (const Attention& a, const Heads<float>& out, float* lse))                \
    X(attention_backward,                                                                          \
      (const Attention& a, const Heads<const float>& grad, const Heads<const float>& out,          \
       const float* lse, const Heads<float>& dq, const Heads<float>& dk, const Heads<float>& dv))  \
    /* targets are ignore_index or in [0, classes); losses, lse and grad (rows) */                 \
    X(cross_entropy_forward,                                                                       \
      (const float* logits, const int64_t* target, int64_t rows, int64_t classes,                  \
       int64_t ignore_index, float label_smoothing, float* losses, float* lse))                    \
    X(cross_entropy_backward, (const float* grad, const float* logits, const int64_t* target,      \
                               const float* lse, int64_t rows, int64_t classes,                    \
                               int64_t ignore_index, float label_smoothing, float* dlogits))       \
    /* logits = x (rows, k) times weight (classes, k) transposed, never all in memory but for few  \
       rows; those of the first kept_classes may be written to `kept`, which has room for them,    \
       and are then read again */                                                                  \
    X(linear_cross_entropy_forward,                                                                \
      (const float* x, const float* weight, const int64_t* target, int64_t rows, int64_t classes,  \
       int64_t k, int64_t ignore_index, float label_smoothing, float* losses, float* lse,          \
       float* kept, int64_t kept_classes))                                                         \
    X(linear_cross_entropy_backward,                                                               \
      (const float* grad, const float* x, const float* weight, const int64_t* target,              \
       const float* lse, const float* kept, int64_t kept_classes, int64_t rows, int64_t classes,   \
       int64_t k, int64_t ignore_index, float label_smoothing, Gradient dx, Gradient dweight))     \
    /* of each row of d features the first 2 half turn, by row i % positions of cos and sin */     \
    X(rotary_forward, (const float* x, const float* cos, const float* sin, int64_t rows,           \
                       int64_t positions, int64_t d, int64_t half, bool interleaved, float* out))  \
    /* ids in [0, vocabulary) */                                                                   \
    X(embedding_backward, (const float* grad, const int64_t* ids, int64_t n, int64_t vocabulary,   \
                           int64_t cols, Gradient dweight))                                        \
    X(dropout_forward, (const float* x, int64_t n, double p, Seed seed, float* out))               \
    /* of all elements of `count` arrays */                                                        \
    X(norm_forward, (const Flat* arrays, int64_t count, float* out))                               \
    /* param, m and v of `count` parameters are updated in place */                                \
    X(adamw_forward, (const Moments* parameters, int64_t count, const AdamW& settings))            \
    /* param, m, v and their scales of `count` parameters are updated in place */                  \
    X(adamw8bit_forward, (const Moments8bit* parameters, int64_t count, const AdamW& settings))    \
    /* param and buffer of `count` parameters are updated in place */                              \
    X(sgd_forward, (const Sums* parameters, int64_t count, const SGD& settings))                   \
    /* start += weight (end - start) of `count` pairs, in place */                                 \
    X(lerp_forward, (const Way* pairs, int64_t count, double weight))                              \
    /* param and buffer of `count` matrices are updated in place */                                \
    X(muon_forward, (const Momentum* matrices, int64_t count, const Muon& settings))               \
    X(all_finite, (const Strides& x, bool* out))                                                   \
    /* what one thread can do at most; peak_bf16 does 0 flop without tiles of bfloat16 */          \
    X(peak_f32, (int64_t rounds, float* numbers, double* flop))                                    \
    X(peak_bf16, (int64_t rounds, double* flop))                                                   \
    X(read_memory, (const float* x, int64_t n, int64_t times, float* total))                       \
    X(copy_memory, (const float* x, int64_t n, int64_t times, float* out))

struct Kernels {
    const char* isa;
    bool bf16;  // products of bfloat16 are to be had
#define MINILLM_DECLARE(name, arguments) void(*name) arguments;
    MINILLM_KERNELS(MINILLM_DECLARE)
#undef MINILLM_DECLARE
};

}  // namespace minillm
