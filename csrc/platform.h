// What differs between operating systems and processors, and nothing else.
#pragma once

namespace minillm {

void cpu_pause();                       // tells the core that this is a waiting loop
void block_signals();                   // leaves signals to the interpreter's threads
void on_fork_child(void (*handler)());  // runs `handler` in every forked child

}  // namespace minillm
