// What minillm uses of cuBLASLt's binary interface, which has been stable since CUDA 11. It is
// declared here and looked up at run time: the extension is linked with no library that a machine
// may not have, and it is built where cuBLAS has no headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace minillm::device::lt {

using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using Preference = void*;

struct Algorithm {
    uint64_t data[8];
};

struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace_size;
    int status;
    float waves;
    int reserved[4];
};

constexpr int success = 0;
constexpr int float32 = 0, bfloat16 = 14;  // cudaDataType
constexpr int compute_float32 = 68;        // CUBLAS_COMPUTE_32F: no TF32
constexpr int32_t no_transpose = 0, transpose = 1;

enum DescAttribute : int {
    transpose_a = 3,
    transpose_b = 4,
    epilogue = 7,
    bias_pointer = 8,
    aux_pointer = 11,
    aux_stride = 12
};
enum LayoutAttribute : int { batch_count = 5, batch_offset = 6 };
enum PreferenceAttribute : int {
    most_workspace = 1,
    reduction_schemes = 3,
    alignment_a = 5,
    alignment_b = 6,
    alignment_c = 7,
    alignment_d = 8
};
// Of D, A times B, all column by column: a bias is as long as D's rows; `gelu_aux` writes what GELU
// gets to aux, `dgelu` multiplies by GELU's slope at aux, and aux lies as D does, in D's type, its
// stride a multiple of 8. `bias_of_b` writes the sums of B's columns, as many as D has, in D's
// type.
enum Epilogue : uint32_t {
    plain = 1,
    add_bias = 4,
    gelu_aux = 32 | 128,
    gelu_aux_bias = gelu_aux | add_bias,
    dgelu = 64 | 128,
    bias_of_b = 512
};
constexpr int64_t aux_multiple = 8;

// Parts of a sum are added up in float32, from a workspace, in one order: no atomics, the same bits
// each time.
constexpr uint32_t reduce_in_workspace = 2;

// Every function returns a status.
struct Functions {
    int (*create)(Handle*);
    int (*desc_create)(MatmulDesc*, int compute, int scale);
    int (*desc_destroy)(MatmulDesc);
    int (*desc_set)(MatmulDesc, int attribute, const void* value, size_t size);
    int (*layout_create)(MatrixLayout*, int type, uint64_t rows, uint64_t cols, int64_t stride);
    int (*layout_destroy)(MatrixLayout);
    int (*layout_set)(MatrixLayout, int attribute, const void* value, size_t size);
    int (*preference_create)(Preference*);
    int (*preference_destroy)(Preference);
    int (*preference_set)(Preference, int attribute, const void* value, size_t size);
    int (*heuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b, MatrixLayout c,
                     MatrixLayout d, Preference, int wanted, HeuristicResult*, int* found);
    int (*matmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout, const void* b,
                  MatrixLayout, const void* beta, const void* c, MatrixLayout, void* d,
                  MatrixLayout, const Algorithm*, void* workspace, size_t size, void* stream);
};

// Null if the library is not found; it is looked for once.
const Functions* functions();

}  // namespace minillm::device::lt
