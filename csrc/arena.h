// Memory kept from step to step of a run, for large blocks; from any thread, and after a fork.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace minillm {

constexpr size_t arena_least = 64 << 10;  // bytes for which it is meant

void* arena_allocate(size_t bytes) noexcept;        // page-aligned; null without memory
void* arena_scratch(size_t bytes) noexcept;         // null outside of runs, too
bool arena_free(void* block) noexcept;              // false if it is not the arena's
size_t arena_capacity(const void* block) noexcept;  // bytes; 0 if it is not the arena's

// A run keeps memory. Steps of the oldest one decide what has gone unused for long enough; when the
// last one ends, all that holds no block is returned.
uint64_t arena_begin_run();
void arena_end_step(uint64_t run);
void arena_end_run(uint64_t run);
void arena_trim();  // returns all that holds no block

struct ArenaStats {
    size_t in_use, kept, peak;  // bytes: of blocks; held besides; most of both since a run began
};
ArenaStats arena_stats();

}  // namespace minillm
