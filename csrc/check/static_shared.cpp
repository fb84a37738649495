#include "static_shared.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#include <link.h>
#endif

namespace minillm::on_host {
namespace {

struct Block {
    unsigned char* data = nullptr;
    size_t size = 0;
};

Block block;  // of the thread whose launch runs

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
thread_local volatile char first_use;  // makes the system allocate them

// Fills in `found` if this library is the one that `info` tells of.
int look(dl_phdr_info* info, size_t, void* found) {
    const auto own = reinterpret_cast<uintptr_t>(&fill_static_shared);
    bool here = false;
    size_t size = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto& part = info->dlpi_phdr[i];
        const uintptr_t start = info->dlpi_addr + part.p_vaddr;
        if (part.p_type == PT_LOAD) here = here || (own >= start && own < start + part.p_memsz);
        if (part.p_type == PT_TLS) size = part.p_memsz;
    }
    if (here)
        *static_cast<Block*>(found) = {static_cast<unsigned char*>(info->dlpi_tls_data), size};
    return here;
}

// All that is thread_local in this library, of this thread.
Block thread_locals() {
    Block found;
    first_use = 0;
    dl_iterate_phdr(look, &found);
    return found.data ? found : Block{};
}
#else
Block thread_locals() { return {}; }
#endif

}  // namespace

void fill_static_shared(unsigned char byte) {
    if (block.size) memset(block.data, byte, block.size);
}

bool is_static_shared(const void* address) {
    return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(block.data) <
           block.size;
}

KeptThreadLocals::KeptThreadLocals() {
    block = thread_locals();
    bytes_.assign(block.data, block.data + block.size);
}

KeptThreadLocals::~KeptThreadLocals() {
    if (block.size) memcpy(block.data, bytes_.data(), block.size);
}

}  // namespace minillm::on_host
