// Matrix products by cuBLASLt. Its matrices lie column by column: what lies row by row is its own
// transpose there, so out^T = b^T a^T is asked for: its A is our b, its B our a, and the bias runs
// along out's columns as an epilogue wants it. Which algorithm is taken depends on shapes, types
// and alignment alone, and for the same of those it gives the same bits ("Results Reproducibility"
// in the manual of cuBLAS).
#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "cublaslt.h"
#include "launch.h"
#include "products.h"

namespace minillm::device::lt {
namespace {

constexpr uint64_t workspace_limit = 32 << 20;
constexpr size_t most_plans = 4096;

void require(int status, const char* step) {
    if (status != success)
        throw std::runtime_error(std::string("matrix product: cuBLASLt failed with status ") +
                                 std::to_string(status) + " in " + step);
}

// The largest power of 2 up to 256 that divides an address.
uint32_t alignment(const void* data) {
    const auto address = reinterpret_cast<uintptr_t>(data) | 256;
    return static_cast<uint32_t>(address & (~address + 1));
}

// A product with all but its addresses worked out.
struct Plan {
    MatmulDesc desc = nullptr;
    MatrixLayout a = nullptr, b = nullptr, out = nullptr;
    HeuristicResult result{};
    bool found = false;
};

using Key = std::array<int64_t, 21>;

Key key_of(const Product& p, const Fused& fused, int device) {
    const auto number = [](const Operand& a) { return static_cast<int64_t>(a.number); };
    return {device,
            p.rows,
            p.cols,
            p.depth,
            p.batch,
            number(p.a),
            p.a.stride,
            p.a.transposed,
            p.a.batch_stride,
            number(p.b),
            p.b.stride,
            p.b.transposed,
            p.b.batch_stride,
            static_cast<int64_t>(p.out_number),
            p.stride,
            p.batch_stride,
            (p.start != nullptr) + 2 * (p.bias != nullptr) + 4 * fused.kind,
            fused.stride,
            alignment(p.a.data) + 512 * static_cast<int64_t>(alignment(p.b.data)),
            alignment(p.out) + 512 * static_cast<int64_t>(alignment(p.start)),
            alignment(p.bias) + 512 * static_cast<int64_t>(alignment(fused.data))};
}

int current_device() {
    int device = 0;
#ifndef MINILLM_CUDA_ON_HOST
    check(cudaGetDevice(&device), "matrix product");
#endif
    return device;
}

int type_of(Number number) { return number == Number::bf16 ? bfloat16 : float32; }

MatrixLayout layout(const Functions& f, Number number, int64_t rows, int64_t cols, int64_t stride,
                    int64_t batch, int64_t batch_stride) {
    MatrixLayout made = nullptr;
    require(f.layout_create(&made, type_of(number), cols, rows, stride), "layout");
    if (batch > 1) {
        const auto count = static_cast<int32_t>(batch);
        require(f.layout_set(made, batch_count, &count, sizeof count), "layout");
        require(f.layout_set(made, batch_offset, &batch_stride, sizeof batch_stride), "layout");
    }
    return made;
}

MatrixLayout layout(const Functions& f, const Operand& a, int64_t rows, int64_t cols,
                    int64_t batch) {
    if (a.transposed) std::swap(rows, cols);
    return layout(f, a.number, rows, cols, a.stride, batch, a.batch_stride);
}

template <class Value>
void set(int (*setter)(void*, int, const void*, size_t), void* object, int attribute,
         const Value& value) {
    require(setter(object, attribute, &value, sizeof value), "attribute");
}

Epilogue epilogue_of(const Product& p, const Fused& fused) {
    if (fused.kind == Fused::row_sums) return bias_of_b;
    if (fused.kind == Fused::gelu) return p.bias ? gelu_aux_bias : gelu_aux;
    if (fused.kind == Fused::gelu_slope) return dgelu;
    return p.bias ? add_bias : plain;
}

// The vectors and matrices that epilogues read and write. The choice of an algorithm looks at how
// these addresses are aligned.
void point(const Functions& f, const Product& p, const Fused& fused, const Plan& plan) {
    const bool sums = fused.kind == Fused::row_sums;
    const void* vector = sums ? fused.data : p.bias;
    if (vector) set(f.desc_set, plan.desc, bias_pointer, vector);
    if (fused.data && !sums) set(f.desc_set, plan.desc, aux_pointer, fused.data);
}

void describe(const Functions& f, const Product& p, const Fused& fused, Plan& plan) {
    require(f.desc_create(&plan.desc, compute_float32, float32), "descriptor");
    set(f.desc_set, plan.desc, transpose_a, p.b.transposed ? transpose : no_transpose);
    set(f.desc_set, plan.desc, transpose_b, p.a.transposed ? transpose : no_transpose);
    set(f.desc_set, plan.desc, epilogue, static_cast<uint32_t>(epilogue_of(p, fused)));
    if (fused.stride) set(f.desc_set, plan.desc, aux_stride, fused.stride);
    point(f, p, fused, plan);
    plan.a = layout(f, p.b, p.depth, p.cols, p.batch);
    plan.b = layout(f, p.a, p.rows, p.depth, p.batch);
    plan.out = layout(f, p.out_number, p.rows, p.cols, p.stride, p.batch, p.batch_stride);
}

void choose(const Functions& f, Handle handle, const Product& p, Plan& plan) {
    Preference preference = nullptr;
    require(f.preference_create(&preference), "preference");
    set(f.preference_set, preference, most_workspace, workspace_limit);
    set(f.preference_set, preference, reduction_schemes, reduce_in_workspace);
    set(f.preference_set, preference, alignment_a, alignment(p.b.data));
    set(f.preference_set, preference, alignment_b, alignment(p.a.data));
    set(f.preference_set, preference, alignment_c, alignment(p.start ? p.start : p.out));
    set(f.preference_set, preference, alignment_d, alignment(p.out));
    int found = 0;
    const int status = f.heuristic(handle, plan.desc, plan.a, plan.b, plan.out, plan.out,
                                   preference, 1, &plan.result, &found);
    f.preference_destroy(preference);
    plan.found = status == success && found > 0 && plan.result.status == success;
}

// The plans of this process; taken by one thread at a time.
class Plans {
 public:
    std::mutex lock;

    Handle handle(const Functions& f, int device) {
        Handle& kept = handles_[device];
        if (!kept) require(f.create(&kept), "start");
        return kept;
    }

    Plan& plan(const Functions& f, const Product& p, const Fused& fused, int device) {
        const Key key = key_of(p, fused, device);
        const auto known = plans_.find(key);
        if (known != plans_.end()) return known->second;
        if (plans_.size() >= most_plans) forget(f);
        Plan made;
        describe(f, p, fused, made);
        choose(f, handle(f, device), p, made);
        return plans_.emplace(key, made).first->second;
    }

 private:
    void forget(const Functions& f) {
        for (auto& [key, plan] : plans_) {
            f.desc_destroy(plan.desc);
            for (const MatrixLayout part : {plan.a, plan.b, plan.out}) f.layout_destroy(part);
        }
        plans_.clear();
    }

    std::map<int, Handle> handles_;
    std::map<Key, Plan> plans_;
};

Plans& plans() {
    static auto* const all = new Plans;  // outlives whatever may still multiply at exit
    return *all;
}

}  // namespace

bool available() { return functions() != nullptr; }

bool multiply(const Product& p, const Fused& fused) {
    const Functions* f = functions();
    if (!f || !p.rows || !p.cols || !p.depth || !p.batch || fused.stride % aux_multiple)
        return false;
    const int device = current_device();
    const std::lock_guard<std::mutex> held(plans().lock);
    const Plan& plan = plans().plan(*f, p, fused, device);
    if (!plan.found) return false;
    point(*f, p, fused, plan);
    const float one = 1, beta = p.start ? 1 : 0;
    const Scratch<uint8_t> workspace(plan.result.workspace_size);
    require(f->matmul(plans().handle(*f, device), plan.desc, &one, p.b.data, plan.a, p.a.data,
                      plan.b, &beta, p.start ? p.start : p.out, plan.out, p.out, plan.out,
                      &plan.result.algorithm, workspace.data(), plan.result.workspace_size,
                      current_stream()),
            "the product");
    return true;
}

}  // namespace minillm::device::lt
