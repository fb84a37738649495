#include "heap.h"

#include <algorithm>
#include <new>
#include <utility>

#include "platform.h"

namespace minillm {
namespace {

constexpr size_t chunk_pages = huge_page / Heap::page;
constexpr size_t granule_pages = Heap::least / Heap::page;
constexpr size_t least_region = 128 * chunk_pages;  // costs addresses until it is written
constexpr uint64_t steps_kept = 4;

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

struct Chunk {
    uint32_t blocks = 0;  // that lie in it, wholly or in part
    bool resident = false;
    uint64_t last_used = 0;  // step
};

bool idle(const Chunk& chunk, uint64_t before) {
    return chunk.resident && chunk.blocks == 0 && chunk.last_used < before;
}

}  // namespace

struct Heap::Block {
    Region* region;
    size_t first, pages;
    bool is_free = true;
    Block *before = nullptr, *after = nullptr;  // neighbours
};

struct Heap::Region {
    // Memory first: if there is not enough, nothing may be written to keep account of it.
    explicit Region(size_t pages)
        : pages(pages),
          data(static_cast<char*>(map_memory(pages * page))),
          mapped(data, Unmap{pages * page}),
          blocks(data ? pages / granule_pages : throw std::bad_alloc()),
          chunks(pages / chunk_pages),
          head(std::make_unique<Block>(Block{this, 0, pages})) {}
    ~Region() {
        for (Block* block = head->after; block;) delete std::exchange(block, block->after);
    }
    bool unused() const { return head->is_free && head->pages == pages; }

    struct Unmap {
        size_t bytes;
        void operator()(char* memory) const { unmap_memory(memory, bytes); }
    };

    size_t pages;
    char* data;
    std::unique_ptr<char, Unmap> mapped;
    std::vector<Block*> blocks;  // those in use, by the granule in which they begin
    std::vector<Chunk> chunks;
    std::unique_ptr<Block> head;
};

Heap::Heap() = default;
Heap::~Heap() = default;

void* Heap::allocate(size_t bytes) {
    const size_t pages = ceil_div(std::max(bytes, least), page);
    Block* block = find(pages);
    if (!block) block = grow(pages);
    split(block, pages);
    block->is_free = false;
    block->region->blocks[block->first / granule_pages] = block;
    touch(*block, 1);
    in_use_ += pages * page;
    peak_ = std::max(peak_, resident_);
    return block->region->data + block->first * page;
}

void Heap::free(void* data) {
    Block* block = block_at(data);
    in_use_ -= block->pages * page;
    touch(*block, -1);
    block->region->blocks[block->first / granule_pages] = nullptr;
    block->is_free = true;
    if (block->after && block->after->is_free) absorb_next(block);
    if (block->before && block->before->is_free) absorb_next(block->before);
}

size_t Heap::capacity(const void* data) const {
    const Block* block = block_at(data);
    return block ? block->pages * page : 0;
}

void Heap::end_step() {
    step_++;
    if (step_ > steps_kept) release(step_ - steps_kept);
}

void Heap::trim() {
    release(UINT64_MAX);
    for (size_t i = regions_.size(); i-- > 0;) {
        if (!regions_[i]->unused()) continue;
        for (const Chunk& chunk : regions_[i]->chunks) resident_ -= chunk.resident ? huge_page : 0;
        regions_.erase(regions_.begin() + static_cast<std::ptrdiff_t>(i));
    }
}

// The first in the order of addresses: what was written before is used again before what never was.
Heap::Block* Heap::find(size_t pages) const {
    for (const auto& region : regions_)
        for (Block* block = region->head.get(); block; block = block->after)
            if (block->is_free && block->pages >= pages) return block;
    return nullptr;
}

// As much as there is already, so that there are few regions; what is needed if that is refused.
Heap::Block* Heap::grow(size_t pages) {
    const size_t needed = ceil_div(pages, chunk_pages) * chunk_pages;
    size_t mapped = 0;
    for (const auto& region : regions_) mapped += region->pages;
    try {
        return add_region(std::max({needed, mapped, least_region}));
    } catch (const std::bad_alloc&) {
        trim();
        return add_region(needed);
    }
}

Heap::Block* Heap::add_region(size_t pages) {
    regions_.reserve(regions_.size() + 1);
    const Region& region = *regions_.emplace_back(std::make_unique<Region>(pages));
    const auto begin = reinterpret_cast<uintptr_t>(region.data);
    low_ = std::min<uintptr_t>(low_, begin);
    high_ = std::max<uintptr_t>(high_, begin + pages * page);
    return region.head.get();
}

Heap::Block* Heap::block_at(const void* data) const {
    const auto place = reinterpret_cast<uintptr_t>(data);
    for (const auto& region : regions_) {
        const size_t offset = place - reinterpret_cast<uintptr_t>(region->data);
        if (offset < region->pages * page) return region->blocks[offset / least];
    }
    return nullptr;
}

void Heap::split(Block* block, size_t pages) {
    if (block->pages == pages) return;
    auto* const rest = new Block{block->region, block->first + pages, block->pages - pages, true,
                                 block,         block->after};
    block->pages = pages;
    if (block->after) block->after->before = rest;
    block->after = rest;
}

void Heap::absorb_next(Block* block) {
    Block* const gone = block->after;
    block->pages += gone->pages;
    block->after = gone->after;
    if (block->after) block->after->before = block;
    delete gone;
}

// Counts blocks in or out of the chunks that this one lies in.
void Heap::touch(const Block& block, int blocks) {
    const size_t last = (block.first + block.pages - 1) / chunk_pages;
    for (size_t i = block.first / chunk_pages; i <= last; i++) {
        Chunk& chunk = block.region->chunks[i];
        if (!chunk.resident) resident_ += huge_page;
        chunk.resident = true;
        chunk.last_used = step_;
        chunk.blocks += blocks;
    }
}

// Returns to the system the chunks that are free and were not used in step `before` or later.
void Heap::release(uint64_t before) {
    for (const auto& region : regions_) {
        std::vector<Chunk>& chunks = region->chunks;
        for (size_t i = 0; i < chunks.size(); i++) {
            size_t end = i;
            while (end < chunks.size() && idle(chunks[end], before)) end++;
            if (end == i) continue;
            if (!discard_memory(region->data + i * huge_page, (end - i) * huge_page)) return;
            resident_ -= (end - i) * huge_page;
            for (; i < end; i++) chunks[i].resident = false;
        }
    }
}

}  // namespace minillm
