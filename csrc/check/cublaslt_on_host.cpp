// cuBLASLt for kernels that run on the host: the functions of cuda/cublaslt.h and its strictness:
// it refuses strides, types and alignments that are not as they were declared, what an epilogue
// lacks, and workspace that was not promised.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "lt_product_on_host.h"

namespace minillm::device::lt {
namespace {

constexpr int invalid = 7, execution_failed = 13, not_supported = 15;
constexpr uint64_t needed_workspace = 96;  // of every second algorithm

struct Preferences {
    uint64_t workspace = 0;
    uint32_t schemes = 7;
    uint32_t alignment[4] = {256, 256, 256, 256};
};

// What an algorithm of this library holds: what was promised when it was chosen.
struct Promise {
    uint32_t alignment[6];  // of a, b, c, d, the bias and aux
    uint64_t workspace;
    uint32_t epilogue;
};
static_assert(sizeof(Promise) <= sizeof(Algorithm));

template <class T>
bool take(T& field, const void* value, size_t size) {
    if (size != sizeof field) return false;
    std::memcpy(&field, value, size);
    return true;
}

int create(Handle* handle) {
    *handle = handle;
    return success;
}

int desc_create(MatmulDesc* desc, int compute, int scale) {
    if (compute != compute_float32 || scale != float32) return not_supported;
    *desc = new Desc;
    return success;
}

int desc_destroy(MatmulDesc desc) {
    delete static_cast<Desc*>(desc);
    return success;
}

int desc_set(MatmulDesc desc, int attribute, const void* value, size_t size) {
    auto& d = *static_cast<Desc*>(desc);
    switch (attribute) {
        case transpose_a:
            return take(d.transposed[0], value, size) ? success : invalid;
        case transpose_b:
            return take(d.transposed[1], value, size) ? success : invalid;
        case epilogue:
            return take(d.epilogue, value, size) ? success : invalid;
        case bias_pointer:
            return take(d.bias, value, size) ? success : invalid;
        case aux_pointer:
            return take(d.aux, value, size) ? success : invalid;
        case aux_stride:
            return take(d.aux_stride, value, size) ? success : invalid;
        default:
            return invalid;
    }
}

int layout_create(MatrixLayout* layout, int type, uint64_t rows, uint64_t cols, int64_t stride) {
    if (!rows || !cols || stride < static_cast<int64_t>(rows)) return invalid;
    *layout = new Layout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), stride};
    return success;
}

int layout_destroy(MatrixLayout layout) {
    delete static_cast<Layout*>(layout);
    return success;
}

int layout_set(MatrixLayout layout, int attribute, const void* value, size_t size) {
    auto& l = *static_cast<Layout*>(layout);
    if (attribute == batch_count) return take(l.batch, value, size) ? success : invalid;
    if (attribute == batch_offset) return take(l.offset, value, size) ? success : invalid;
    return invalid;
}

int preference_create(Preference* preference) {
    *preference = new Preferences;
    return success;
}

int preference_destroy(Preference preference) {
    delete static_cast<Preferences*>(preference);
    return success;
}

int preference_set(Preference preference, int attribute, const void* value, size_t size) {
    auto& p = *static_cast<Preferences*>(preference);
    if (attribute == most_workspace) return take(p.workspace, value, size) ? success : invalid;
    if (attribute == reduction_schemes) return take(p.schemes, value, size) ? success : invalid;
    if (attribute < alignment_a || attribute > alignment_d) return invalid;
    return take(p.alignment[attribute - alignment_a], value, size) ? success : invalid;
}

// The sizes of a product: those of d, and the depth; false if they do not fit together.
bool depth_of(const Desc& desc, const Layout& a, const Layout& b, const Layout& d, int64_t& depth) {
    const bool ta = desc.transposed[0] == transpose, tb = desc.transposed[1] == transpose;
    depth = ta ? a.rows : a.cols;
    return (ta ? a.cols : a.rows) == d.rows && (tb ? b.cols : b.rows) == depth &&
           (tb ? b.rows : b.cols) == d.cols && a.batch == d.batch && b.batch == d.batch;
}

// Some have no algorithm here, as it may be on a card.
int can_finish(const Desc& desc, const Layout& d, int64_t depth) {
    if ((desc.has_bias() && !desc.bias) || (desc.has_aux() && !desc.aux)) return invalid;
    if (desc.has_aux() && (desc.aux_stride % aux_multiple || desc.aux_stride < d.rows))
        return invalid;
    switch (desc.epilogue) {
        case plain:
            return success;
        case add_bias:
            return d.type == float32 ? success : not_supported;  // a bias is float32 here
        case gelu_aux:
        case gelu_aux_bias:
        case dgelu:
        case bias_of_b:
            return d.batch == 1 && d.type == float32 && depth % 5 ? success : not_supported;
        default:
            return not_supported;
    }
}

// The largest power of 2 up to 256 that divides an address.
uint32_t alignment(const void* data) {
    const auto address = reinterpret_cast<uintptr_t>(data) | 256;
    return static_cast<uint32_t>(address & (~address + 1));
}

int heuristic(Handle, MatmulDesc desc, MatrixLayout a, MatrixLayout b, MatrixLayout, MatrixLayout d,
              Preference preference, int wanted, HeuristicResult* result, int* found) {
    const auto& own = *static_cast<Desc*>(desc);
    const auto &left = *static_cast<Layout*>(a), &right = *static_cast<Layout*>(b);
    const auto& out = *static_cast<Layout*>(d);
    const auto& wishes = *static_cast<Preferences*>(preference);
    int64_t depth = 0;
    *found = 0;
    if (wanted < 1 || !depth_of(own, left, right, out, depth)) return invalid;
    if (left.type != right.type || (left.type == float32 && out.type != float32) ||
        wishes.schemes != reduce_in_workspace)
        return not_supported;
    if (const int status = can_finish(own, out, depth)) return status;
    Promise promise{};
    std::copy_n(wishes.alignment, 4, promise.alignment);
    promise.workspace = (depth % 2) * std::min(needed_workspace, wishes.workspace);
    promise.alignment[4] = own.has_bias() ? alignment(own.bias) : 1;
    promise.alignment[5] = own.has_aux() ? alignment(own.aux) : 1;
    promise.epilogue = own.epilogue;
    std::memcpy(&result->algorithm, &promise, sizeof promise);
    result->workspace_size = promise.workspace;
    result->status = success;
    *found = 1;
    return success;
}

bool aligned(const void* data, uint32_t to) { return reinterpret_cast<uintptr_t>(data) % to == 0; }

int matmul(Handle handle, MatmulDesc desc, const void* alpha, const void* a, MatrixLayout a_layout,
           const void* b, MatrixLayout b_layout, const void* beta, const void* c, MatrixLayout,
           void* d, MatrixLayout d_layout, const Algorithm* algorithm, void* workspace, size_t size,
           void* stream) {
    const auto& own = *static_cast<Desc*>(desc);
    const auto &left = *static_cast<Layout*>(a_layout), &right = *static_cast<Layout*>(b_layout);
    const auto& out = *static_cast<Layout*>(d_layout);
    Promise promise;
    std::memcpy(&promise, algorithm, sizeof promise);
    int64_t depth = 0;
    if (!handle || !depth_of(own, left, right, out, depth) || own.epilogue != promise.epilogue ||
        !aligned(a, promise.alignment[0]) || !aligned(b, promise.alignment[1]) ||
        !aligned(c, promise.alignment[2]) || !aligned(d, promise.alignment[3]) ||
        !aligned(own.bias, promise.alignment[4]) || !aligned(own.aux, promise.alignment[5]) ||
        size < promise.workspace || (size && !workspace))
        return invalid;
    const Asked asked{own,
                      left,
                      right,
                      out,
                      depth,
                      *static_cast<const float*>(alpha),
                      *static_cast<const float*>(beta),
                      a,
                      b,
                      c,
                      d,
                      workspace,
                      size};
    const cudaError_t error = on_host::perform(stream, [asked] { asked.run(); });
    return error == cudaSuccess ? success : execution_failed;
}

}  // namespace

const Functions* functions() {
    static const Functions all{create,         desc_create,       desc_destroy,
                               desc_set,       layout_create,     layout_destroy,
                               layout_set,     preference_create, preference_destroy,
                               preference_set, heuristic,         matmul};
    return &all;
}

}  // namespace minillm::device::lt
