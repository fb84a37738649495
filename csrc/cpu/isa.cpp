#include "isa.h"

#include <atomic>
#include <stdexcept>

#include "../platform.h"
#include "../precision.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace minillm {

#define MINILLM_LINK(isa)         \
    namespace isa {               \
    extern const Kernels kernels; \
    }

#if defined(__x86_64__)
MINILLM_LINK(sse4)
MINILLM_LINK(avx2)
MINILLM_LINK(avx512)
MINILLM_LINK(amx)
#elif defined(__aarch64__)
MINILLM_LINK(neon)
#else
MINILLM_LINK(generic)
#endif

namespace {

#if defined(__x86_64__)
bool converts_halves() {  // F16C; clang's builtin does not know its name
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// The builtins also ask the operating system whether it keeps the wide registers.
std::vector<const Kernels*> supported() {
#if defined(__x86_64__)
    std::vector<const Kernels*> found;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2")) return found;
    found.push_back(&sse4::kernels);
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !converts_halves())
        return found;
    found.push_back(&avx2::kernels);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        found.push_back(&avx512::kernels);
    if (found.back() == &avx512::kernels && has_matrix_tiles()) found.push_back(&amx::kernels);
    return found;
#elif defined(__aarch64__)
    return {&neon::kernels};
#else
    return {&generic::kernels};
#endif
}

std::atomic<const Kernels*> in_use{nullptr};
std::atomic<bool> bf16{false};

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* table : supported()) names.push_back(table->isa);
    return names;
}

const Kernels& kernels() {
    if (!in_use) {
        const std::vector<const Kernels*> tables = supported();
        if (tables.empty()) throw std::runtime_error("minillm._cpu: this processor lacks SSE4.2");
        in_use = tables.back();
    }
    return *in_use;
}

bool bf16_products() { return bf16.load(std::memory_order_relaxed); }

void set_bf16_products(bool wanted) { bf16 = wanted; }

void set_isa(const std::string& name) {
    std::string choices;
    for (const Kernels* table : supported()) {
        if (table->isa == name) {
            in_use = table;
            return;
        }
        choices += (choices.empty() ? "" : ", ") + std::string(table->isa);
    }
    throw std::invalid_argument("instruction set '" + name +
                                "' is not one of those this processor runs: " + choices);
}

}  // namespace minillm
