#include "platform.h"

#include <algorithm>
#include <fstream>
#include <new>
#include <sstream>
#include <string>
#include <thread>

#include "parallel.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace minillm {

#if defined(__x86_64__) || defined(_M_X64)
void cpu_pause() { _mm_pause(); }

FlushDenormals::FlushDenormals() : before_(_mm_getcsr()) {
    _mm_setcsr(static_cast<unsigned>(before_) | 0x8040);  // results and operands
}
FlushDenormals::~FlushDenormals() { _mm_setcsr(static_cast<unsigned>(before_)); }
#elif defined(__aarch64__)
void cpu_pause() { asm volatile("yield"); }

FlushDenormals::FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | (uint64_t{1} << 24)));
}
FlushDenormals::~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }
#else
void cpu_pause() {}

FlushDenormals::FlushDenormals() : before_(0) {}
FlushDenormals::~FlushDenormals() {}
#endif

#if defined(__x86_64__) && defined(__linux__)
bool has_matrix_tiles() {
    unsigned a, b, c, d;
    constexpr unsigned tiles = 1u << 24 | 1u << 22 | 1u << 25;  // of bfloat16 and of bytes
    constexpr unsigned conversion = 1u << 5;                    // to bfloat16
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles) != tiles) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & conversion)) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // arch_prctl(2), Linux 5.16
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#else
bool has_matrix_tiles() { return false; }
#endif

#if defined(_WIN32)
void block_signals() {}
void on_fork_child(void (*)()) {}
void around_fork(void (*)(), void (*)()) {}
#else
void block_signals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

void on_fork_child(void (*handler)()) { pthread_atfork(nullptr, nullptr, handler); }

void around_fork(void (*before)(), void (*after)()) { pthread_atfork(before, after, after); }
#endif

#if defined(__linux__)
namespace {

int affinity_cores() {
    for (int room = 1024; room <= 1 << 20; room *= 2) {
        cpu_set_t* set = CPU_ALLOC(room);
        if (!set) return 0;
        const size_t size = CPU_ALLOC_SIZE(room);
        const bool fits = sched_getaffinity(0, size, set) == 0;
        const int cores = fits ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (fits) return cores;
    }
    return 0;
}

// Cores granted by one group's files, rounded up; 0 where it sets no limit.
int group_quota(const std::string& folder) {
    double quota = 0, period = 0;
    std::ifstream v2(folder + "/cpu.max");  // "max 100000" fails to parse: no limit
    if (!(v2 >> quota >> period)) {
        std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;  // -1: no limit
        std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    if (quota <= 0 || period <= 0) return 0;
    return static_cast<int>(std::max(1.0, (quota + period - 1) / period));
}

// The tightest quota of this process's control group and its parents (cgroup v2 and v1).
int quota_cores() {
    int cores = 0;
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // "0::/path" or "4:cpu,cpuacct:/path"
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const bool v2 = controllers == ",,";
        if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
        const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        std::string path = line.substr(second + 1);
        for (;;) {
            if (path == "/") path.clear();
            const int quota = group_quota(root + path);
            if (quota > 0) cores = cores > 0 ? std::min(cores, quota) : quota;
            if (path.empty()) break;
            path.erase(path.rfind('/'));
        }
    }
    return cores;
}

}  // namespace

int available_cores() {
    const int affinity = affinity_cores(), quota = quota_cores();
    return std::max(1, quota > 0 ? std::min(affinity, quota) : affinity);
}

void* map_memory(size_t bytes) {
    // One huge page more than asked for holds an aligned address; what is left of it goes back.
    void* const mapped = mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* const start = static_cast<char*>(mapped);
    const size_t before = (huge_page - reinterpret_cast<uintptr_t>(start) % huge_page) % huge_page;
    if (before) munmap(start, before);
    munmap(start + before + bytes, huge_page - before);
    madvise(start + before, bytes, MADV_HUGEPAGE);  // a kernel without them uses small ones
    return start + before;
}

void unmap_memory(void* memory, size_t bytes) { munmap(memory, bytes); }

bool discard_memory(void* memory, size_t bytes) {
    return madvise(memory, bytes, MADV_DONTNEED) == 0;
}
#else
void* map_memory(size_t bytes) {
    return ::operator new(bytes, std::align_val_t{huge_page}, std::nothrow);
}

void unmap_memory(void* memory, size_t) { ::operator delete(memory, std::align_val_t{huge_page}); }

bool discard_memory(void*, size_t) { return false; }

int available_cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }
#endif

}  // namespace minillm
