// The one thread pool. Work is cut into chunks by sizes alone, so results never depend on threads.
#pragma once

#include <stdint.h>

namespace minillm {

// Cores this process may use: CPU affinity and cgroup quota (rounded up), at least 1.
int available_cores();

int thread_count();
void set_thread_count(int count);

using Chunk = void (*)(const void* context, int64_t chunk);

// Calls `work(context, i)` once for each i in [0, chunks) and returns when all are done. Chunks run
// in any order on any thread. Calls from inside a chunk, or while another Python thread holds the
// pool, run on the calling thread. The first exception thrown by a chunk is rethrown here.
void run_chunks(int64_t chunks, Chunk work, const void* context);

template <class F>
static inline void parallel_for(int64_t chunks, const F& work) {
    if (chunks == 1) return work(int64_t{0});
    if (chunks > 1)
        run_chunks(
            chunks,
            [](const void* context, int64_t chunk) { (*static_cast<const F*>(context))(chunk); },
            &work);
}

}  // namespace minillm
