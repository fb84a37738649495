// The kernels without Python, on every instruction set that runs here, against plain loops in
// double precision. For processors at hand only in an emulator (.ci/emulate).
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "../block_size.h"
#include "../cpu/isa.h"
#include "../parallel.h"

namespace {

using namespace minillm;
using Values = std::vector<float>;
using Exact = std::function<double(int64_t)>;

Values random_values(int64_t n) {
    static uint64_t state = 1;
    Values values(n);
    for (float& value : values) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = static_cast<float>(state >> 40) / (1 << 23) - 1;
    }
    return values;
}

bool good = true;

void compare(const char* name, const Values& got, const Exact& exact) {
    double worst = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(got.size()); i++) {
        const double error = std::fabs(got[i] - exact(i)) / (1 + std::fabs(exact(i)));
        if (!(error <= worst)) worst = error;
    }
    const bool close = worst < 1e-5;
    good = good && close;
    std::printf("  %-18s %.1e%s\n", name, worst, close ? "" : "  WRONG");
}

double dot(const Values& a, int64_t first_a, const Values& b, int64_t first_b, int64_t n) {
    double sum = 0;
    for (int64_t k = 0; k < n; k++) sum += double{a[first_a + k]} * b[first_b + k];
    return sum;
}

void check_products(const Kernels& kernels) {
    const int64_t n = 70, m = 45, k = 150, offset = 0;
    const Values x = random_values(n * k), w = random_values(m * k), bias = random_values(m);
    Values out(n * m), dweight(m * k);
    const Exact product = [&](int64_t i) { return dot(x, i / m * k, w, i % m * k, k); };
    kernels.matmul_forward({x.data(), n, k, k, 1}, &offset, {w.data(), k, m, 1, k}, &offset, 1,
                           out.data());
    compare("matmul", out, product);
    kernels.linear_forward(x.data(), w.data(), bias.data(), nullptr, n, m, k, out.data());
    compare("linear", out, [&](int64_t i) { return product(i) + bias[i % m]; });
    kernels.linear_backward(out.data(), x.data(), w.data(), n, m, k, {}, {dweight.data(), false},
                            {});
    compare("linear, gradient", dweight, [&](int64_t i) {
        double sum = 0;
        for (int64_t row = 0; row < n; row++)
            sum += double{out[row * m + i / k]} * x[row * k + i % k];
        return sum;
    });
}

void check_rows(const Kernels& kernels) {
    const int64_t rows = 33, cols = 77;
    const Values x = random_values(rows * cols);
    Values out(rows * cols), mean(rows), rstd(rows), losses(rows), lse(rows);
    std::vector<int64_t> target(rows);
    std::vector<double> total(rows, 0), variance(rows, 0), center(rows, 0);
    for (int64_t row = 0; row < rows; row++) target[row] = row * 5 % cols;
    for (int64_t i = 0; i < rows * cols; i++) {
        total[i / cols] += std::exp(double{x[i]});
        center[i / cols] += double{x[i]} / cols;
    }
    for (int64_t i = 0; i < rows * cols; i++)
        variance[i / cols] += std::pow(x[i] - center[i / cols], 2) / cols;
    kernels.softmax_forward(x.data(), rows, cols, out.data());
    compare("softmax", out, [&](int64_t i) { return std::exp(double{x[i]}) / total[i / cols]; });
    kernels.layer_norm_forward(x.data(), nullptr, nullptr, 1e-5, rows, cols, out.data(),
                               mean.data(), rstd.data());
    compare("layer_norm", out, [&](int64_t i) {
        return (x[i] - center[i / cols]) / std::sqrt(variance[i / cols] + 1e-5);
    });
    kernels.cross_entropy_forward(x.data(), target.data(), rows, cols, -100, 0, losses.data(),
                                  lse.data());
    compare("cross_entropy", losses,
            [&](int64_t row) { return std::log(total[row]) - x[row * cols + target[row]]; });
}

void check_elements(const Kernels& kernels) {
    const int64_t n = 40'007;
    Values x = random_values(n), out(n);
    for (float& value : x) value *= 8;
    kernels.gelu_forward(x.data(), n, false, out.data());
    compare("gelu", out, [&](int64_t i) { return x[i] * std::erfc(-x[i] * std::sqrt(0.5)) / 2; });
    kernels.silu_forward(x.data(), n, out.data());
    compare("silu", out, [&](int64_t i) { return x[i] / (1 + std::exp(-double{x[i]})); });
}

void check_attention(const Kernels& kernels) {
    const int64_t heads = 2, rows = 90, d = 24, size = heads * rows * d;
    const Values q = random_values(size), k = random_values(size), v = random_values(size);
    Values out(size), lse(heads * rows);
    const auto lay = [&](auto* data) {
        return Heads<std::remove_pointer_t<decltype(data)>>{data, size, rows * d, d};
    };
    const float scale = 0.25f;
    kernels.attention_forward({1,
                               heads,
                               heads,
                               rows,
                               rows,
                               d,
                               d,
                               lay(q.data()),
                               lay(k.data()),
                               lay(v.data()),
                               {},
                               true,
                               0,
                               scale},
                              lay(out.data()), lse.data());
    compare("attention", out, [&](int64_t i) {
        const int64_t row = i / d, head = row / rows * rows;
        double total = 0, sum = 0;
        for (int64_t key = head; key <= row; key++) {
            const double weight = std::exp(scale * dot(q, row * d, k, key * d, d));
            total += weight;
            sum += weight * v[key * d + i % d];
        }
        return sum / total;
    });
}

// Q8_0: a scale in float16, then 32 bytes. The numbers of x are whole multiples of what rounding to
// 16 bits makes of them.
void check_blocks(const Kernels& kernels) {
    constexpr int64_t most = 40, m = 37, k = 96, block_bytes = size_of_kind(8).bytes;
    Values x(most * k), out, bias = random_values(m);
    for (int64_t i = 0; i < most * k; i++)
        x[i] = i % 32 ? static_cast<float>(i * 7919 % 65535 - 32767) / 32767 : 1;
    std::vector<uint8_t> blocks(m * k / 32 * block_bytes);
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = static_cast<uint8_t>(i * 151 % 251);
    const auto scale = [](int64_t block) { return std::ldexp(1.0, -static_cast<int>(block % 5)); };
    for (int64_t block = 0; block < m * k / 32; block++) {
        blocks[block * block_bytes] = 0;
        blocks[block * block_bytes + 1] = static_cast<uint8_t>((15 - block % 5) << 2);
    }
    for (const int64_t n : {int64_t{3}, most}) {
        out.assign(n * m, 0);
        const BlockProduct product{8, blocks.data(), x.data(), bias.data(), nullptr, n, m,
                                   k, out.data()};
        kernels.block_linear_forward(&product, 1);
        compare(n == 3 ? "blocks" : "blocks, many rows", out, [&](int64_t i) {
            double sum = bias[i % m];
            for (int64_t j = 0; j < k; j++) {
                const int64_t block = i % m * (k / 32) + j / 32;
                const auto number = static_cast<int8_t>(blocks[block * block_bytes + 2 + j % 32]);
                sum += scale(block) * number * double{x[i / m * k + j]};
            }
            return sum;
        });
    }
}

}  // namespace

int main() {
    for (const std::string& isa : available_isas()) {
        set_isa(isa);
        for (const int threads : {1, 2}) {
            set_thread_count(threads);
            std::printf("%s, %d threads\n", isa.c_str(), threads);
            check_products(kernels());
            check_rows(kernels());
            check_elements(kernels());
            check_attention(kernels());
            check_blocks(kernels());
        }
    }
    return good && !available_isas().empty() ? 0 : 1;
}
