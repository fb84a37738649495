// What differs between operating systems and processors, and nothing else.
#pragma once

#include <stdint.h>

namespace minillm {

void cpu_pause();                       // tells the core that this is a waiting loop
void block_signals();                   // leaves signals to the interpreter's threads
void on_fork_child(void (*handler)());  // runs `handler` in every forked child

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
