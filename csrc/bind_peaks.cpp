// What this machine can do at best, measured: arithmetic and memory, on all threads of the pool.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "parallel.h"

namespace minillm {
namespace {

constexpr int runs = 5;  // of which the best counts: others may disturb a run, none speeds it up

template <class F>
double seconds_of(const F& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// 10^9 units a second; `work(rounds)` returns the units that it did.
template <class F>
double best_rate(double seconds, const F& work) {
    if (!(seconds > 0 && seconds < 60))
        throw std::invalid_argument("peak: " + std::to_string(seconds) +
                                    " seconds given, more than 0 and less than 60 are needed");
    const Unlocked unlocked;
    int64_t rounds = 1;
    while (seconds_of([&] { work(rounds); }) < seconds / runs / 2) rounds *= 2;
    double best = 0;
    for (int run = 0; run < runs; run++) {
        double units = 0;
        const double spent = seconds_of([&] { units = work(rounds); });
        best = std::max(best, units / spent / 1e9);
    }
    return best;
}

// The flop of all threads, each doing `work(numbers, flop)` on its own.
template <class F>
double on_every_thread(const F& work) {
    struct alignas(64) Share {
        float numbers[2] = {0.5f, 1.0f};
        double flop = 0;
    };
    std::vector<Share> shares(thread_count());
    parallel_for(shares.size(), [&](int64_t i) { work(shares[i].numbers, &shares[i].flop); });
    double flop = 0;
    for (const Share& share : shares) flop += share.flop;
    return flop;
}

double peak_f32(double seconds) {
    return best_rate(seconds, [](int64_t rounds) {
        return on_every_thread(
            [&](float* numbers, double* flop) { kernels().peak_f32(rounds, numbers, flop); });
    });
}

double peak_bf16(double seconds) {
    double flop = 0;
    kernels().peak_bf16(1, &flop);
    if (flop == 0) return 0;
    return best_rate(seconds, [](int64_t rounds) {
        return on_every_thread([&](float*, double* done) { kernels().peak_bf16(rounds, done); });
    });
}

// Each thread has its part of `bytes`, and passes over it again and again.
template <class F>
double memory_rate(int64_t bytes, double seconds, const F& pass) {
    const int64_t threads = thread_count(), part = bytes / 4 / threads / 64 * 64;
    if (part < 64)
        throw std::invalid_argument("peak: a working set of " + std::to_string(bytes) +
                                    " bytes given, 256 bytes a thread are needed");
    const std::unique_ptr<float[]> memory(new float[threads * part + 16]);
    float* const start = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) / 4;
    parallel_for(threads, [&](int64_t i) { std::fill_n(start + i * part, part, 1.0f); });
    return best_rate(seconds, [&](int64_t rounds) {
        parallel_for(threads, [&](int64_t i) { pass(start + i * part, part, rounds); });
        return 4.0 * static_cast<double>(threads * part * rounds);
    });
}

double peak_read(int64_t bytes, double seconds) {
    return memory_rate(bytes, seconds, [](const float* x, int64_t n, int64_t rounds) {
        float total;
        kernels().read_memory(x, n, rounds, &total);
    });
}

double peak_copy(int64_t bytes, double seconds) {
    return memory_rate(bytes, seconds, [](float* x, int64_t n, int64_t rounds) {
        kernels().copy_memory(x, n / 2, rounds, x + n / 2);
    });
}

}  // namespace

void bind_peaks(pybind11::module_& runtime) {
    using pybind11::arg;
    runtime.def("peak_f32", peak_f32, arg("seconds") = 0.05,
                "GFLOP/s of float32 multiply-adds in the instruction set in use, all threads.");
    runtime.def("peak_bf16", peak_bf16, arg("seconds") = 0.05,
                "GFLOP/s of bfloat16 products in tiles (AMX), all threads; 0 without them.");
    runtime.def("peak_read", peak_read, arg("bytes"), arg("seconds") = 0.05,
                "GB/s of reading a working set of `bytes` again and again.");
    runtime.def("peak_copy", peak_copy, arg("bytes"), arg("seconds") = 0.05,
                "GB/s of copying one half of `bytes` to the other; reads and writes both count.");
}

}  // namespace minillm
