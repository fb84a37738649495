// Tiles of the processor's matrix unit: 16 rows of 64 bytes. A product adds to each element of c
// (16 x 16 float32) 32 products of bfloat16 numbers; a holds them by row, b by pairs of depth.
// The instructions themselves, because gcc 12 declares only part of a configuration as read, and no
// memory at all, where it offers them as functions.
#pragma once

#include "vec.h"

namespace minillm::MINILLM_ISA {

constexpr int64_t tile_lines = 16, tile_depth = 32;  // of an operand's tile
constexpr int64_t tile_numbers = tile_lines * tile_depth;

#if defined(__AMX_BF16__)
#define MINILLM_AMX 1

struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// While it lives, this thread's tiles have their full size.
class TileScope {
 public:
    TileScope() {
        TileShapes shapes;
        for (int tile = 0; tile < 8; tile++) {
            shapes.row_bytes[tile] = 64;
            shapes.rows[tile] = 16;
        }
        asm volatile("ldtilecfg %0" : : "m"(shapes));
    }
    ~TileScope() { asm volatile("tilerelease"); }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;
};

#define MINILLM_TILE_ZERO(t) asm volatile("tilezero %%tmm" #t : :)
#define MINILLM_TILE_LOAD(t, from, stride)                      \
    asm volatile("tileloadd (%0,%1,1), %%tmm" #t                \
                 :                                              \
                 : "r"(from), "r"(static_cast<int64_t>(stride)) \
                 : "memory")
// The same for what will not be needed again soon: it pushes less out of the first cache.
#define MINILLM_TILE_STREAM(t, from, stride)                    \
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm" #t              \
                 :                                              \
                 : "r"(from), "r"(static_cast<int64_t>(stride)) \
                 : "memory")
#define MINILLM_TILE_STORE(t, to, stride)                     \
    asm volatile("tilestored %%tmm" #t ", (%0,%1,1)"          \
                 :                                            \
                 : "r"(to), "r"(static_cast<int64_t>(stride)) \
                 : "memory")
#define MINILLM_TILE_PRODUCT(c, a, b) \
    asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
// The same of signed bytes and 32-bit integers; b holds them by fours of depth.
#define MINILLM_TILE_PRODUCT_OF_BYTES(c, a, b) \
    asm volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#else
#define MINILLM_AMX 0
#endif

}  // namespace minillm::MINILLM_ISA
