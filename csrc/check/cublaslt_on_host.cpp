// cuBLASLt for kernels that run on the host: the functions of cuda/cublaslt.h with plain loops over
// matrices that lie column by column, and its strictness: it refuses strides, types and alignments
// that are not as they were declared, and workspace that was not promised.
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "../cuda/cublaslt.h"
#include "../cuda/launch.h"

namespace minillm::device::lt {
namespace {

constexpr int invalid = 7, execution_failed = 13, not_supported = 15;
constexpr uint64_t needed_workspace = 96;  // of every second algorithm

struct Desc {
    int32_t transposed[2] = {no_transpose, no_transpose};  // a, b
    uint32_t epilogue = plain;
    const float* bias = nullptr;
};

struct Layout {
    int type;
    int64_t rows, cols, stride;
    int32_t batch = 1;
    int64_t offset = 0;

    int64_t place(int64_t entry, int64_t row, int64_t col) const {
        return entry * offset + row + col * stride;
    }
    float get(const void* data, int64_t entry, int64_t row, int64_t col) const {
        const int64_t at = place(entry, row, col);
        return type == bfloat16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(data)[at])
                                : static_cast<const float*>(data)[at];
    }
    void put(void* data, int64_t entry, int64_t row, int64_t col, float value) const {
        const int64_t at = place(entry, row, col);
        if (type == bfloat16)
            static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(value);
        else
            static_cast<float*>(data)[at] = value;
    }
};

struct Preferences {
    uint64_t workspace = 0;
    uint32_t schemes = 7;
    uint32_t alignment[4] = {256, 256, 256, 256};
};

// What an algorithm of this library holds: what was promised when it was chosen.
struct Promise {
    uint32_t alignment[4];
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
        (own.epilogue != plain && own.epilogue != add_bias) ||
        wishes.schemes != reduce_in_workspace)
        return not_supported;
    Promise promise{};
    std::copy_n(wishes.alignment, 4, promise.alignment);
    promise.workspace = (depth % 2) * std::min(needed_workspace, wishes.workspace);
    promise.epilogue = own.epilogue;
    std::memcpy(&result->algorithm, &promise, sizeof promise);
    result->workspace_size = promise.workspace;
    result->status = success;
    *found = 1;
    return success;
}

bool aligned(const void* data, uint32_t to) { return reinterpret_cast<uintptr_t>(data) % to == 0; }

// A product with all that describes it, which the caller may change once it was asked for.
struct Asked {
    Desc desc;
    Layout left, right, out;
    int64_t depth;
    float factor, keep;
    const void *a, *b, *c;
    void *d, *workspace;
    size_t workspace_size;

    void run() const {
        if (workspace_size) std::memset(workspace, 0xA5, workspace_size);
        for (int64_t entry = 0; entry < out.batch; entry++)
            for (int64_t col = 0; col < out.cols; col++)
                for (int64_t row = 0; row < out.rows; row++)
                    out.put(d, entry, row, col, element(entry, row, col));
    }

 private:
    float element(int64_t entry, int64_t row, int64_t col) const {
        float sum = 0;
        for (int64_t i = 0; i < depth; i++) {
            const float one =
                desc.transposed[0] ? left.get(a, entry, i, row) : left.get(a, entry, row, i);
            sum += one *
                   (desc.transposed[1] ? right.get(b, entry, col, i) : right.get(b, entry, i, col));
        }
        sum *= factor;
        if (keep != 0) sum += keep * out.get(c, entry, row, col);
        if (desc.epilogue == add_bias) sum += desc.bias[row];
        return sum;
    }
};

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
