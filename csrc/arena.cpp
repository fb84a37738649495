#include "arena.h"

#include <mutex>
#include <new>
#include <set>

#include "heap.h"
#include "platform.h"

namespace minillm {
namespace {

static_assert(arena_least == Heap::least);

struct Arena {
    std::mutex mutex;
    Heap heap;
    std::set<uint64_t> runs;
    uint64_t begun = 0;
};

// Never freed: arrays may outlive main(). Nobody holds its lock while the process forks.
Arena& arena() {
    static Arena* const the_arena = new Arena;
    static const bool registered =
        (around_fork([] { arena().mutex.lock(); }, [] { arena().mutex.unlock(); }), true);
    (void)registered;
    return *the_arena;
}

using Lock = std::lock_guard<std::mutex>;

void* allocate(size_t bytes) noexcept {
    try {
        return arena().heap.allocate(bytes);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

}  // namespace

void* arena_allocate(size_t bytes) noexcept {
    const Lock lock(arena().mutex);
    return allocate(bytes);
}

void* arena_scratch(size_t bytes) noexcept {
    const Lock lock(arena().mutex);
    return arena().runs.empty() ? nullptr : allocate(bytes);
}

size_t arena_capacity(const void* block) noexcept {
    if (!arena().heap.may_contain(block)) return 0;
    const Lock lock(arena().mutex);
    return arena().heap.capacity(block);
}

bool arena_free(void* block) noexcept {
    if (!arena().heap.may_contain(block)) return false;
    const Lock lock(arena().mutex);
    if (!arena().heap.capacity(block)) return false;
    arena().heap.free(block);
    if (arena().runs.empty()) arena().heap.trim();  // it outlived them all
    return true;
}

uint64_t arena_begin_run() {
    const Lock lock(arena().mutex);
    if (arena().runs.empty()) arena().heap.reset_peak();
    return *arena().runs.insert(++arena().begun).first;
}

void arena_end_step(uint64_t run) {
    const Lock lock(arena().mutex);
    if (*arena().runs.begin() == run) arena().heap.end_step();
}

void arena_end_run(uint64_t run) {
    const Lock lock(arena().mutex);
    arena().runs.erase(run);
    if (arena().runs.empty()) arena().heap.trim();
}

void arena_trim() {
    const Lock lock(arena().mutex);
    arena().heap.trim();
}

ArenaStats arena_stats() {
    const Lock lock(arena().mutex);
    const Heap& heap = arena().heap;
    return {heap.in_use(), heap.resident() - heap.in_use(), heap.peak()};
}

}  // namespace minillm
