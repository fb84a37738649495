#include <atomic>

#include "../precision.h"
#include "kernels.h"

namespace minillm {
namespace {

// One a line, in the order of ../kernels.h.
Kernels device_kernels() {
    Kernels table{};
    table.isa = "cuda";
    table.bf16 = true;
#define MINILLM_HAVE(name) table.name = device::name;
    MINILLM_HAVE(matmul_forward)
    MINILLM_HAVE(linear_forward)
    MINILLM_HAVE(linear_backward)
    MINILLM_HAVE(feed_forward_forward)
    MINILLM_HAVE(feed_forward_backward)
    MINILLM_HAVE(block_linear_forward)
    MINILLM_HAVE(softmax_forward)
    MINILLM_HAVE(softmax_backward)
    MINILLM_HAVE(log_softmax_forward)
    MINILLM_HAVE(log_softmax_backward)
    MINILLM_HAVE(layer_norm_forward)
    MINILLM_HAVE(layer_norm_backward)
    MINILLM_HAVE(rms_norm_forward)
    MINILLM_HAVE(rms_norm_backward)
    MINILLM_HAVE(gelu_forward)
    MINILLM_HAVE(gelu_backward)
    MINILLM_HAVE(silu_forward)
    MINILLM_HAVE(silu_backward)
    MINILLM_HAVE(attention_forward)
    MINILLM_HAVE(attention_backward)
    MINILLM_HAVE(cross_entropy_forward)
    MINILLM_HAVE(cross_entropy_backward)
    MINILLM_HAVE(rotary_forward)
    MINILLM_HAVE(embedding_backward)
    MINILLM_HAVE(dropout_forward)
    MINILLM_HAVE(norm_forward)
    MINILLM_HAVE(adamw_forward)
    MINILLM_HAVE(adamw8bit_forward)
    MINILLM_HAVE(sgd_forward)
    MINILLM_HAVE(lerp_forward)
    MINILLM_HAVE(muon_forward)
    MINILLM_HAVE(linear_cross_entropy_forward)
    MINILLM_HAVE(linear_cross_entropy_backward)
#undef MINILLM_HAVE
    return table;
}

std::atomic<bool> bf16{false};

}  // namespace

const Kernels& kernels() {
    static const Kernels table = device_kernels();
    return table;
}

bool bf16_products() { return bf16.load(std::memory_order_relaxed); }
void set_bf16_products(bool wanted) { bf16.store(wanted, std::memory_order_relaxed); }

}  // namespace minillm
