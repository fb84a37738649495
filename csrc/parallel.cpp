// Persistent workers, each with its own contiguous share of the chunks; who finishes early takes
// from the others, so a worker held up by a busy neighbour holds up nobody but its current chunk.
#include "parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "platform.h"

namespace minillm {
namespace {

thread_local bool inside_chunk = false;

// Spins briefly, then reports that it is time to sleep.
class Patience {
 public:
    bool left() {
        cpu_pause();
        if (++spins_ % 64) return true;
        const auto now = std::chrono::steady_clock::now();
        if (spins_ == 64) start_ = now;
        return now - start_ < std::chrono::microseconds(200);
    }

 private:
    unsigned spins_ = 0;
    std::chrono::steady_clock::time_point start_;
};

class Pool {
 public:
    // False if another thread is using the pool.
    bool run(int64_t chunks, Chunk work, const void* context, int threads) {
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn.owns_lock()) return false;
        if (static_cast<int>(shares_.size()) != threads) resize(threads);
        publish(chunks, work, context);
        inside_chunk = true;
        take_part(0);
        inside_chunk = false;
        open_ = false;
        await_workers();
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        return true;
    }

 private:
    struct alignas(64) Share {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };

    void publish(int64_t chunks, Chunk work, const void* context) {
        work_ = work;
        context_ = context;
        const auto sharers = static_cast<int64_t>(shares_.size());
        for (int64_t i = 0; i < sharers; i++) {
            shares_[i].next = chunks * i / sharers;
            shares_[i].end = chunks * (i + 1) / sharers;
        }
        open_ = true;
        epoch_++;
        if (sleepers_ > 0) {
            const std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
    }

    void take_part(size_t self) {
        for (size_t k = 0; k < shares_.size(); k++) {
            Share& share = shares_[(self + k) % shares_.size()];
            for (int64_t chunk; (chunk = share.next++) < share.end;) {
                try {
                    work_(context_, chunk);
                } catch (...) {
                    const std::lock_guard<std::mutex> lock(mutex_);
                    if (!error_) error_ = std::current_exception();
                }
            }
        }
    }

    // A late worker counts itself in before it looks at `open_`; the job stays valid meanwhile.
    void await_workers() {
        for (Patience patience; active_ > 0;) {
            if (patience.left()) continue;
            std::unique_lock<std::mutex> lock(mutex_);
            waiting_ = true;
            done_.wait(lock, [this] { return active_ == 0; });
            waiting_ = false;
        }
    }

    void worker(size_t self, uint64_t seen) {
        block_signals();
        const FlushDenormals flush;
        inside_chunk = true;
        while (await_epoch(seen)) {
            active_++;
            if (open_) take_part(self);
            if (--active_ == 0 && waiting_) {
                const std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

    bool await_epoch(uint64_t& seen) {
        for (Patience patience; epoch_ == seen;) {
            if (patience.left()) continue;
            std::unique_lock<std::mutex> lock(mutex_);
            sleepers_++;
            wake_.wait(lock, [&] { return epoch_ != seen; });
            sleepers_--;
        }
        seen = epoch_;
        return !stop_;
    }

    void resize(int threads) {
        stop_ = true;
        epoch_++;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            wake_.notify_all();
        }
        for (std::thread& thread : workers_) thread.join();
        workers_.clear();
        stop_ = false;
        shares_ = std::vector<Share>(threads);
        try {
            for (int i = 1; i < threads; i++)
                workers_.emplace_back(&Pool::worker, this, i, epoch_.load());
        } catch (const std::system_error&) {
            // The system grants no more threads: those there are take all shares.
        }
    }

    std::mutex turn_;  // held by the caller whose job runs
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    std::vector<Share> shares_;  // one for the caller, one for each worker
    Chunk work_ = nullptr;
    const void* context_ = nullptr;
    std::exception_ptr error_;
    std::atomic<uint64_t> epoch_{0};
    std::atomic<int> active_{0}, sleepers_{0};
    std::atomic<bool> open_{false}, waiting_{false}, stop_{false};
};

std::atomic<int> threads{0};       // 0: not decided yet
std::atomic<Pool*> pool{nullptr};  // never freed: workers may outlive main()

// A forked child has none of its parent's workers and may find their locks held.
void forget_pool() { pool = nullptr; }

Pool& the_pool() {
    if (Pool* existing = pool) return *existing;
    static const bool registered = (on_fork_child(forget_pool), true);
    (void)registered;
    auto fresh = std::make_unique<Pool>();
    Pool* expected = nullptr;
    return pool.compare_exchange_strong(expected, fresh.get()) ? *fresh.release() : *expected;
}

}  // namespace

int thread_count() {
    if (threads == 0) threads = available_cores();
    return threads;
}

void set_thread_count(int count) { threads = count; }

void run_chunks(int64_t chunks, Chunk work, const void* context) {
    const int count = thread_count();
    if (count > 1 && !inside_chunk && the_pool().run(chunks, work, context, count)) return;
    for (int64_t chunk = 0; chunk < chunks; chunk++) work(context, chunk);
}

}  // namespace minillm
