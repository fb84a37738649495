// A product as cuBLASLt computes it with its epilogues, by plain loops over matrices that lie
// column by column. The formulas are those of its manual.
#pragma once

#include <math.h>

#include <cstring>

#include "../cuda/cublaslt.h"
#include "../cuda/launch.h"

namespace minillm::device::lt {

struct Desc {
    int32_t transposed[2] = {no_transpose, no_transpose};  // a, b
    uint32_t epilogue = plain;
    float* bias = nullptr;  // in d's type
    void* aux = nullptr;
    int64_t aux_stride = 0;

    bool has_bias() const { return epilogue & add_bias || epilogue == bias_of_b; }
    bool has_aux() const { return (epilogue & gelu_aux) == gelu_aux || epilogue == dgelu; }
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

// "GELU is approximated by" this, with tanh; and its slope.
inline float gelu_bend(float x) { return 0.79788456f * (x + 0.044715f * x * x * x); }
inline float gelu_of(float x) { return 0.5f * x * (1 + tanhf(gelu_bend(x))); }
inline float gelu_slope_at(float x) {
    const float bent = tanhf(gelu_bend(x));
    return 0.5f * (1 + bent) +
           0.5f * x * (1 - bent * bent) * 0.79788456f * (1 + 3 * 0.044715f * x * x);
}

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
                    out.put(d, entry, row, col, finished(element(entry, row, col), row, col));
        if (desc.epilogue == bias_of_b)
            for (int64_t col = 0; col < out.cols; col++) desc.bias[col] = sum_of_b(col);
    }

 private:
    float of_a(int64_t entry, int64_t row, int64_t i) const {
        return desc.transposed[0] ? left.get(a, entry, i, row) : left.get(a, entry, row, i);
    }
    float of_b(int64_t entry, int64_t i, int64_t col) const {
        return desc.transposed[1] ? right.get(b, entry, col, i) : right.get(b, entry, i, col);
    }
    float sum_of_b(int64_t col) const {
        float sum = 0;
        for (int64_t i = 0; i < depth; i++) sum += of_b(0, i, col);
        return sum;
    }
    float element(int64_t entry, int64_t row, int64_t col) const {
        float sum = 0;
        for (int64_t i = 0; i < depth; i++) sum += of_a(entry, row, i) * of_b(entry, i, col);
        sum *= factor;
        return keep != 0 ? sum + keep * out.get(c, entry, row, col) : sum;
    }
    float finished(float sum, int64_t row, int64_t col) const {
        if (desc.epilogue & add_bias) sum += desc.bias[row];
        if (!desc.has_aux()) return sum;
        const Layout aux{out.type, out.rows, out.cols, desc.aux_stride};
        if (desc.epilogue == dgelu) return sum * gelu_slope_at(aux.get(desc.aux, 0, row, col));
        aux.put(desc.aux, 0, row, col, sum);
        return gelu_of(sum);
    }
};

}  // namespace minillm::device::lt
