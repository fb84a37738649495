// Large blocks cut from regions of 2 MB chunks. Freed neighbours merge, so any size can use what
// any other left. Not thread-safe.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <memory>
#include <vector>

namespace minillm {

class Heap {
 public:
    static constexpr size_t least = 64 << 10;  // bytes of a block
    static constexpr size_t page = 4096;       // sizes and addresses are multiples of it

    Heap();
    ~Heap();
    Heap(const Heap&) = delete;
    Heap& operator=(const Heap&) = delete;

    void* allocate(size_t bytes);  // contents undefined; throws std::bad_alloc
    void free(void* block);
    size_t capacity(const void* data) const;    // bytes of the block that begins there, 0 if none
    bool may_contain(const void* data) const {  // safe without a lock
        const auto place = reinterpret_cast<uintptr_t>(data);
        return place >= low_ && place < high_;
    }

    void end_step();  // returns to the system what nothing used for a few steps
    void trim();      // returns all that holds no block
    void reset_peak() { peak_ = resident_; }

    size_t in_use() const { return in_use_; }      // bytes of blocks
    size_t resident() const { return resident_; }  // bytes of chunks that held a block
    size_t peak() const { return peak_; }          // of the resident ones

 private:
    struct Block;
    struct Region;

    Block* find(size_t pages) const;
    Block* grow(size_t pages);
    Block* add_region(size_t pages);
    Block* block_at(const void* data) const;
    void split(Block* block, size_t pages);
    void absorb_next(Block* block);
    void touch(const Block& block, int blocks);
    void release(uint64_t before);

    std::vector<std::unique_ptr<Region>> regions_;
    uint64_t step_ = 0;
    size_t in_use_ = 0, resident_ = 0, peak_ = 0;
    std::atomic<uintptr_t> low_{UINTPTR_MAX}, high_{0};  // of all regions there ever were
};

}  // namespace minillm
