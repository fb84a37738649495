#include "cuda_on_host.h"

#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace minillm::on_host {

uint3 thread_index, block_index;
dim3 block_size, grid_size;

namespace {

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

Block state;
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

// Lets those go on that wait together; whether there were any.
bool release() {
    bool any = false, all = true;
    for (int t = 0; t < threads(); t++)
        all = all && !state.done[t] && state.waiting[t].what && !state.waiting[t].mask;
    for (int t = 0; t < threads(); t++) {
        const Waiting own = state.waiting[t];
        if (!own.what) continue;
        bool complete = all;
        if (own.mask) {
            complete = true;
            for (int lane = 0; lane < warp && t / warp * warp + lane < threads(); lane++) {
                if (!(own.mask >> lane & 1u)) continue;
                const Waiting& other = state.waiting[t / warp * warp + lane];
                complete = complete && other.mask == own.mask && other.what &&
                           strcmp(other.what, own.what) == 0;
            }
        }
        if (!complete) continue;
        any = true;
        const int first = own.mask ? t / warp * warp : 0;
        const int last = own.mask ? std::min(first + warp, threads()) : threads();
        for (int other = first; other < last; other++)
            if (!own.mask || own.mask >> (other - first) & 1u) state.waiting[other].what = nullptr;
    }
    return any;
}

void run_block() {
    const int count = threads();
    state.waiting.assign(count, {});
    state.done.assign(count, 0);
    state.warps.assign((count + warp - 1) / warp, {});
    std::fill(shared.begin(), shared.end(), garbage);
    for (int t = 0; t < count; t++) start_fiber(t, [] { (*state.body)(); });
    for (int left = count; left > 0;) {
        for (const int t : permutation(count)) {
            if (state.done[t] || state.waiting[t].what) continue;
            become(t);
            if (enter_fiber(t)) continue;
            state.done[t] = 1;
            left--;
        }
        if (left && !release())
            for (int t = 0; t < count; t++)
                if (state.waiting[t].what && !state.done[t]) stuck(t);
    }
}

}  // namespace

void run(dim3 grid, dim3 block, size_t bytes, const std::function<void()>& body) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    grid_size = grid;
    block_size = block;
    if (threads() < 1 || threads() > 1024 || bytes > 227 * 1024 || grid.y > 65535 || grid.z > 65535)
        throw std::runtime_error("cuda_on_host: a launch that no GPU takes");
    state.body = &body;
    shared = std::vector<unsigned char>(bytes);  // of this very size: sanitizers guard it
    const int blocks = static_cast<int>(grid.x * grid.y * grid.z);
    for (const int b : permutation(blocks)) {
        const auto place = static_cast<unsigned>(b);
        block_index = {place % grid.x, place / grid.x % grid.y, place / grid.x / grid.y};
        run_block();
    }
}

void set_order(uint64_t seed) {
    order.seed(seed);
    drawn = seed != 0;
}

unsigned char* shared_memory() { return shared.data(); }

void* allocate(size_t bytes) {
    void* data = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (data) memset(data, garbage, bytes);
    return data;
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
