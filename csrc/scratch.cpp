#include "scratch.h"

#include <new>
#include <utility>

#include "arena.h"
#include "platform.h"

namespace minillm {
namespace {

constexpr std::align_val_t alignment{64};
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t granule = 1, largest_kept = 0;  // every block ends where it was asked to
constexpr int64_t huge_floats = INT64_MAX;
#else
constexpr int64_t granule = 16384;         // floats; sizes are rounded up so that blocks fit again
constexpr int64_t largest_kept = 8 << 20;  // floats
constexpr int64_t huge_floats = huge_page / sizeof(float);  // from here on in such pages
#endif

struct Block {
    float* data = nullptr;
    int64_t floats = 0;

    static Block of(int64_t floats) {
        floats = (floats + granule - 1) / granule * granule;
        if (floats < huge_floats)  // as `free` asks: rounded up
            return {static_cast<float*>(::operator new(sizeof(float) * floats, alignment)), floats};
        floats = (floats + huge_floats - 1) / huge_floats * huge_floats;
        void* const mapped = map_memory(sizeof(float) * floats);
        if (!mapped) throw std::bad_alloc();
        return {static_cast<float*>(mapped), floats};
    }
    void free() {
        if (floats < huge_floats)
            ::operator delete(data, alignment);
        else
            unmap_memory(data, sizeof(float) * floats);
    }
};

struct Shelf {
    Block blocks[12];
    void drop_huge() {
        for (Block& block : blocks)
            if (block.floats >= huge_floats) std::exchange(block, {}).free();
    }
    ~Shelf() {
        for (Block& block : blocks) block.free();
    }
};

thread_local Shelf shelf;

}  // namespace

// During a run huge blocks come from its arena: arrays use them when the kernel is done.
Scratch::Scratch(int64_t floats) : floats_(floats) {
    if (floats >= huge_floats) {
        data_ = static_cast<float*>(arena_scratch(sizeof(float) * floats));
        if (data_) {
            shelf.drop_huge();
            return;
        }
    }
    Block* best = nullptr;
    for (Block& block : shelf.blocks)
        if (block.floats >= floats && block.data && (!best || block.floats < best->floats))
            best = &block;
    Block taken;
    if (best)
        std::swap(taken, *best);
    else
        taken = Block::of(floats);
    data_ = taken.data;
    floats_ = taken.floats;
}

Scratch::~Scratch() {
    if (floats_ >= huge_floats && arena_free(data_)) return;
    Block returned{data_, floats_};
    if (floats_ <= largest_kept) {
        Block* smallest = &shelf.blocks[0];
        for (Block& block : shelf.blocks)
            if (block.floats < smallest->floats) smallest = &block;
        if (smallest->floats < returned.floats) std::swap(returned, *smallest);
    }
    returned.free();
}

Scratch::operator float*() const { return data_; }

}  // namespace minillm
