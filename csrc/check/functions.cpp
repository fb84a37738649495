// Compares the elementary functions with the C library's in double precision, on every STRIDE-th of
// all 2^32 floats and on the special ones: functions STRIDE. Prints the largest share of the stated
// bound that is used, and where; exit code 1 if a bound is exceeded, 77 if the processor lacks the
// instruction set. .ci/functions builds and runs it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "../cpu/activation.h"
#include "../platform.h"

namespace {

using namespace minillm::MINILLM_ISA;

constexpr double least = 1.1754944e-38;  // below it numbers may be taken for 0
constexpr double ulp = 1.1920929e-7;     // of 1

struct Check {
    const char* name;
    vf (*function)(vf);
    double (*truth)(double);
    double (*bound)(double);  // relative
    float first, last;        // the arguments it is made for
};

double cdf(double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }
double bent(double x) { return 2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }
double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

const Check checks[] = {
    {"exp", [](vf x) { return minillm::MINILLM_ISA::exp(x); }, [](double x) { return std::exp(x); },
     [](double) { return ulp; }, -HUGE_VALF, HUGE_VALF},
    {"normal_tail", normal_tail, [](double t) { return cdf(-t); },
     [](double t) { return 5e-7 * (1 + t * t / 2); }, 0, last_tail},
    {"normal_density", normal_density,
     [](double t) { return std::exp(-t * t / 2) / std::sqrt(2 * M_PI); },
     [](double t) { return 3e-7 * (1 + t * t / 2); }, 0, last_density},
    {"sigmoid", [](vf x) { return sigmoid(x).value; }, sigmoid_of, [](double) { return 2 * ulp; },
     -HUGE_VALF, HUGE_VALF},
    {"gelu", GeluErf::value, [](double x) { return x * cdf(x); },
     [](double x) { return 6e-7 * (1 + x * x / 2); }, -HUGE_VALF, HUGE_VALF},
    {"gelu tanh", GeluTanh::value, [](double x) { return x * sigmoid_of(bent(x)); },
     [](double x) { return 6e-7 * (1 + std::fabs(bent(x)) / 2); }, -HUGE_VALF, HUGE_VALF},
    {"silu", Silu::value, [](double x) { return x * sigmoid_of(x); },
     [](double) { return 5 * ulp; }, -HUGE_VALF, HUGE_VALF},
};

// The share of the bound that y uses as f(x).
double share(const Check& check, float x, float y) {
    const double truth = std::isinf(x) && x < 0 ? 0 : check.truth(x);
    if (std::isnan(x)) return std::isnan(y) ? 0 : HUGE_VAL;
    if (std::fabs(truth) < 256 * least) return std::fabs(y - truth) / (512 * least);
    if (std::isinf(y) && truth * y > 0 && std::fabs(truth) > 3.4028e38) return 0;
    return std::fabs(y - truth) / std::fabs(truth) / check.bound(x);
}

struct Worst {
    double share = 0;
    float x = 0;
};

void meet(const Check& check, const uint32_t (&patterns)[W], Worst& worst) {
    float x[W], y[W];
    memcpy(x, patterns, sizeof x);
    for (float& value : x)
        if (!std::isnan(value) && !(value >= check.first && value <= check.last))
            value = check.first;
    store(y, check.function(load(x)));
    for (int i = 0; i < W; i++) {
        const double used = share(check, x[i], y[i]);
        if (!(used <= worst.share)) worst = {used, x[i]};
    }
}

Worst sweep(const Check& check, uint64_t stride) {
    Worst worst;
    uint32_t patterns[W];
    for (const uint32_t special : {0x0u, 0x1u, 0x7fffffu, 0x800000u, 0x3f800000u, 0x41500000u,
                                   0x42b17218u, 0x7f7fffffu, 0x7f800000u, 0x7fc00000u}) {
        for (int i = 0; i < W; i++) patterns[i] = special | (i % 2 ? 0x80000000u : 0);
        meet(check, patterns, worst);
    }
    for (uint64_t first = 0; first < uint64_t{1} << 32; first += W * stride) {
        for (int i = 0; i < W; i++) patterns[i] = static_cast<uint32_t>(first + i * stride);
        meet(check, patterns, worst);
    }
    return worst;
}

bool runs_here() {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return true;
#endif
}

}  // namespace

int main(int count, char** arguments) {
    if (!runs_here()) return 77;
    const uint64_t stride = count == 2 ? std::strtoull(arguments[1], nullptr, 10) : 0;
    if (stride == 0) return std::fprintf(stderr, "usage: functions STRIDE\n"), 2;
    bool good = true;
    for (const Check& check : checks) {
        const minillm::FlushDenormals flush;
        const Worst worst = sweep(check, stride);
        good = good && worst.share <= 1;
        std::printf("%-15s %.3f of the bound, at %.9g\n", check.name, worst.share, worst.x);
    }
    return good ? 0 : 1;
}
