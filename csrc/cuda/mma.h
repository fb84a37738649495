// Tensor cores by name: the instructions of sm_80 that products are made of, and how the lanes of a
// warp share their operands (PTX ISA, "Matrix Fragments for mma.m16n8k16", ".m16n8k8" and
// "ldmatrix"). Lane l has g = l / 4 and t = l % 4; all lanes call each function together.
#pragma once

#include "launch.h"

namespace minillm::device {

#ifndef MINILLM_CUDA_ON_HOST

// c (16, 8) += a (16, 16) b (16, 8) of bfloat16, two to a register, the first in the low half.
// a: rows g and g + 8, columns 2t; then the same rows, columns 2t + 8. b: rows 2t, then 2t + 8, of
// column g. c: columns 2t and 2t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void multiply_bf16(float (&c)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c (16, 8) += a (16, 8) b (8, 8) of TF32, numbers of float32 whose last 13 bits are 0.
// a: rows g and g + 8 of column t, then of column t + 4. b: rows t and t + 4 of column g.
__device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += (a_high + a_low) (b_high + b_low) but for the product of both low parts; small ones first.
__device__ __forceinline__ void multiply_tf32x3(float (&c)[4], const uint32_t (&a_high)[4],
                                                const uint32_t (&a_low)[4],
                                                const uint32_t (&b_high)[2],
                                                const uint32_t (&b_low)[2]) {
    multiply_tf32(c, a_low, b_high);
    multiply_tf32(c, a_high, b_low);
    multiply_tf32(c, a_high, b_high);
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory: lane l gives the address of row l % 8
// of matrix l / 8 and gets of each the numbers 2t and 2t + 1 of row g.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same matrices transposed: a lane gets of each the numbers g of rows 2t and 2t + 1.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// 16 bytes to shared memory, both ends aligned to 16. They are there for the lane that asked after
// wait_for_copies, and for the block after the next barrier.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :
                 : "r"(shared_address(shared)), "l"(global)
                 : "memory");
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until all groups but the last `left` are there.
template <int left>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

// 2^x within 2 units in the last place; denormals are 0.
__device__ __forceinline__ float exp2_of(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// Both rounded to the nearest bfloat16, ties to even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t result;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
}

// The nearest number of TF32, ties away from 0.
__device__ __forceinline__ float round_tf32(float x) {
    uint32_t result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(x));
    return __uint_as_float(result);
}

#else
}  // namespace minillm::device
#include "../check/mma_on_host.h"
namespace minillm::device {
#endif

__device__ __forceinline__ int lane_index() { return threadIdx.x % warp_size; }

}  // namespace minillm::device
