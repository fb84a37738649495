// The memory that kernels declare __shared__, which on the host is thread_local.
#pragma once

#include <vector>

namespace minillm::on_host {

// A sanitizer guards it instead where one is at work.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
constexpr bool fills_static_shared = true;
#else
constexpr bool fills_static_shared = false;
#endif

// Fills it, together with all else that is thread_local in this library.
void fill_static_shared(unsigned char byte);

bool is_static_shared(const void* address);

// While kernels run; then what was thread_local before is back.
class KeptThreadLocals {
 public:
    KeptThreadLocals();
    ~KeptThreadLocals();

 private:
    std::vector<unsigned char> bytes_;
};

}  // namespace minillm::on_host
