#include "cuda_on_host.h"

#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"
#include "static_shared.h"

namespace minillm::on_host {

uint3 thread_index, block_index;
dim3 block_size, grid_size;

namespace {

size_t most_bytes = SIZE_MAX;            // of one allocation
constexpr unsigned char garbage = 0xff;  // NaN as floats, out of range as places
constexpr int warp = 32;

struct Waiting {
    unsigned mask = 0;           // of those awaited; 0: for the block
    const char* what = nullptr;  // null: does not wait
};

struct Warp {
    Slot slots[2][warp];  // of this exchange and the one before, which slow lanes still read
    unsigned turn[warp];
};

struct Block {
    const std::function<void()>* body = nullptr;
    std::vector<Waiting> waiting;
    std::vector<char> done;
    std::vector<Warp> warps;
    int current = 0;
};

// What a kernel has read as constant, the first million of times.
constexpr size_t most_constants = 1 << 20;
struct Constant {
    const void* address;
    size_t bytes;
    unsigned char value[16];
};

Block state;
std::vector<Constant> constants;
std::vector<unsigned char> shared;
std::mt19937_64 order;
bool drawn = false;
std::mutex one_at_a_time;

int threads() { return static_cast<int>(block_size.x * block_size.y * block_size.z); }

void become(int thread) {
    state.current = thread;
    const auto t = static_cast<unsigned>(thread);
    thread_index = {t % block_size.x, t / block_size.x % block_size.y,
                    t / block_size.x / block_size.y};
}

void wait(unsigned mask, const char* what) {
    state.waiting[state.current] = {mask, what};
    leave_fiber();
}

std::vector<int> permutation(int count) {
    std::vector<int> places(count);
    for (int i = 0; i < count; i++) places[i] = i;
    if (drawn)
        for (int i = count - 1; i > 0; i--) std::swap(places[i], places[order() % (i + 1)]);
    return places;
}

[[noreturn]] void stuck(int thread) {
    throw std::runtime_error(std::string("cuda_on_host: thread ") + std::to_string(thread) +
                             " waits in " + state.waiting[thread].what +
                             " for others that have gone on or ended");
}

bool may_run(int thread) { return !state.done[thread] && !state.waiting[thread].what; }

// Whether all lanes that this one awaits have arrived where it waits.
bool complete(int first, int last, const Waiting& own) {
    for (int t = first; t < last; t++) {
        if (!(own.mask >> (t - first) & 1u)) continue;
        const Waiting& other = state.waiting[t];
        if (!other.what || other.mask != own.mask) return false;
        if (other.what != own.what && strcmp(other.what, own.what) != 0) return false;
    }
    return true;
}

// Lets the lanes of a warp go on that wait for each other alone and have all arrived.
void release_warp(int first, int last) {
    for (int t = first; t < last; t++) {
        const Waiting own = state.waiting[t];
        if (!own.what || !own.mask || !complete(first, last, own)) continue;
        for (int other = first; other < last; other++)
            if (own.mask >> (other - first) & 1u) state.waiting[other].what = nullptr;
    }
}

// Lets all threads go on if all wait for the block.
bool release_block() {
    for (int t = 0; t < threads(); t++)
        if (state.done[t] || !state.waiting[t].what || state.waiting[t].mask) return false;
    for (Waiting& one : state.waiting) one.what = nullptr;
    return true;
}

// A warp with threads that may run, or -1. It is drawn anew each time, so warps drift apart.
int choose_warp() {
    std::vector<int> found;
    for (int t = 0; t < threads(); t++) {
        if (!may_run(t)) continue;
        if (!drawn) return t / warp;
        found.push_back(t / warp);
        t = t / warp * warp + warp - 1;
    }
    return found.empty() ? -1 : found[order() % found.size()];
}

// Runs the lanes of a warp that may until they wait or end; how many ended.
int run_warp(int chosen) {
    const int first = chosen * warp, last = std::min(first + warp, threads());
    int ended = 0;
    for (const int lane : permutation(last - first)) {
        if (!may_run(first + lane)) continue;
        become(first + lane);
        if (enter_fiber(first + lane)) continue;
        state.done[first + lane] = 1;
        ended++;
    }
    release_warp(first, last);
    return ended;
}

void run_block() {
    const int count = threads();
    state.waiting.assign(count, {});
    state.done.assign(count, 0);
    state.warps.resize((count + warp - 1) / warp);
    for (Warp& one : state.warps) std::fill(one.turn, one.turn + warp, 0u);
    std::fill(shared.begin(), shared.end(), garbage);
    fill_static_shared(garbage);
    for (int t = 0; t < count; t++) start_fiber(t, [] { (*state.body)(); });
    for (int left = count; left > 0;) {
        const int chosen = choose_warp();
        if (chosen >= 0)
            left -= run_warp(chosen);
        else if (!release_block())
            for (int t = 0; t < count; t++)
                if (!state.done[t]) stuck(t);
    }
}

void check_constants() {
    for (const Constant& one : constants)
        if (memcmp(one.address, one.value, one.bytes) != 0)
            throw std::runtime_error(
                "cuda_on_host: __ldg of memory that the same kernel has changed");
}

void run_grid(dim3 grid, dim3 block, size_t bytes, const std::function<void()>& body) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    grid_size = grid;
    block_size = block;
    const KeptThreadLocals kept;
    state.body = &body;
    shared = std::vector<unsigned char>(bytes);  // of this very size: sanitizers guard it
    constants.clear();
    const int blocks = static_cast<int>(grid.x * grid.y * grid.z);
    for (const int b : permutation(blocks)) {
        const auto place = static_cast<unsigned>(b);
        block_index = {place % grid.x, place / grid.x % grid.y, place / grid.x / grid.y};
        run_block();
    }
    check_constants();
}

bool is_shared(const void* address) {
    const auto place = reinterpret_cast<uintptr_t>(address);
    const auto from = reinterpret_cast<uintptr_t>(shared.data());
    return place - from < shared.size() || is_static_shared(address);
}

void require_aligned(const char* what, const void* address, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment)
        throw std::runtime_error(std::string("cuda_on_host: ") + what + " of an address that " +
                                 std::to_string(alignment) + " does not divide");
}

}  // namespace

cudaError_t run(cudaStream_t stream, dim3 grid, dim3 block, size_t bytes,
                std::function<void()> body) {
    const uint64_t count = uint64_t{block.x} * block.y * block.z;
    constexpr size_t most_shared = 99 * 1024;  // of 8.6 and 8.9, which run what sm_80 does
    if (count < 1 || count > 1024 || block.z > 64 || bytes > most_shared || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535)
        throw std::runtime_error("cuda_on_host: a launch that no GPU takes");
    return perform(stream, [=, body = std::move(body)] { run_grid(grid, block, bytes, body); });
}

void set_order(uint64_t seed) {
    order.seed(seed);
    drawn = seed != 0;
}

unsigned char* shared_memory() { return shared.data(); }

void set_most_bytes(size_t bytes) { most_bytes = bytes; }

void* allocate(size_t bytes) {
    if (bytes > most_bytes) return nullptr;
    void* data = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (data) fill_with_garbage(data, bytes);
    return data;
}

void fill_with_garbage(void* data, size_t bytes) { memset(data, garbage, bytes); }

void require_global(const char* what, const void* address, size_t alignment) {
    const bool shared = is_shared(address);
    if (shared || on_fiber(state.current, address))
        throw std::runtime_error(std::string("cuda_on_host: ") + what + " of memory that is " +
                                 (shared ? "shared" : "a thread's own"));
    require_aligned(what, address, alignment);
}

void require_shared(const char* what, const void* address, size_t alignment) {
    if (!is_shared(address))
        throw std::runtime_error(std::string("cuda_on_host: ") + what +
                                 " of memory that is not shared");
    require_aligned(what, address, alignment);
}

void require_unchanged(const void* address, size_t bytes) {
    if (constants.size() == most_constants) return;
    Constant& read = constants.emplace_back();
    read.address = address;
    read.bytes = bytes;
    memcpy(read.value, address, bytes);
}

void barrier() { wait(0, "__syncthreads"); }

unsigned lane() { return static_cast<unsigned>(state.current % warp); }

const Slot* exchange(unsigned mask, const char* what, const void* own, size_t bytes) {
    if (!(mask >> lane() & 1u))
        throw std::runtime_error(std::string("cuda_on_host: ") + what +
                                 " by a lane that is not in its mask");
    const int thread = state.current;
    Warp& mine = state.warps[thread / warp];
    Slot* slots = mine.slots[mine.turn[lane()]++ % 2];
    if (bytes) memcpy(slots[lane()].bytes, own, bytes);
    wait(mask, what);
    return slots;
}

}  // namespace minillm::on_host
