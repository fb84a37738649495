// What differs between operating systems and processors, and nothing else.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace minillm {

void cpu_pause();                       // tells the core that this is a waiting loop
void block_signals();                   // leaves signals to the interpreter's threads
void on_fork_child(void (*handler)());  // runs `handler` in every forked child
// Runs `before` in the parent before a fork, `after` in parent and child after it.
void around_fork(void (*before)(), void (*after)());

// Memory whose size and address are multiples of `huge_page` bytes, in pages of that size where
// the system has them. It costs nothing until it is written. Null if there is none.
constexpr size_t huge_page = 2 << 20;
void* map_memory(size_t bytes);
void unmap_memory(void* memory, size_t bytes);
bool discard_memory(void* memory, size_t bytes);  // gives up its contents and, if true, its pages

// Whether the processor multiplies tiles of bfloat16 (AMX) and the system lets this process do it:
// it must be asked, because each thread then needs 8 KB more to be kept.
bool has_matrix_tiles();

// Until it ends, this thread takes numbers below 1.18e-38 (denormals) for 0: computing with them
// can be a hundred times slower.
class FlushDenormals {
 public:
    FlushDenormals();
    ~FlushDenormals();
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
    uint64_t before_;
};

}  // namespace minillm
