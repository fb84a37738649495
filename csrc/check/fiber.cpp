#include "fiber.h"

#include <stddef.h>
#include <stdint.h>

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace minillm::on_host {
namespace {

constexpr size_t stack_size = 128 * 1024;

#ifdef __x86_64__
using Context = void*;  // the stack pointer; what a call must keep lies there
#else
using Context = ucontext_t;
#endif

struct Fiber {
    std::unique_ptr<char[]> stack{new char[stack_size]};  // costs pages only where it is used
    Context context;
    void (*body)() = nullptr;
    bool ended = false;
};

std::vector<std::unique_ptr<Fiber>> fibers;
Fiber* running = nullptr;
Context entered_from;
std::exception_ptr thrown;
const void* outer_stack = nullptr;  // for the sanitizer
size_t outer_size = 0;

void begin();

#ifdef __x86_64__
asm(R"(
.text
.type minillm_switch, @function
minillm_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
extern "C" void minillm_switch(Context* from, Context* to);

void switch_context(Context* from, Context* to) { minillm_switch(from, to); }

// Six registers and where to return to, as if `begin` had been called.
void prepare(Fiber& fiber) {
    auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + stack_size) & ~uintptr_t{15};
    auto* words = reinterpret_cast<uintptr_t*>(top) - 8;
    for (int i = 0; i < 8; i++) words[i] = 0;
    words[6] = reinterpret_cast<uintptr_t>(begin);
    fiber.context = words;
}
#else
void switch_context(Context* from, Context* to) { swapcontext(from, to); }

void prepare(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_size;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, begin, 0);
}
#endif

// To a context on `stack`. One that ends will not come back.
void switch_to(Context* from, Context* to, [[maybe_unused]] const void* stack,
               [[maybe_unused]] size_t size, [[maybe_unused]] bool ends) {
#ifdef __SANITIZE_ADDRESS__
    void* mine = nullptr;
    __sanitizer_start_switch_fiber(ends ? nullptr : &mine, stack, size);
    switch_context(from, to);
    __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
#else
    switch_context(from, to);
#endif
}

void begin() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &outer_stack, &outer_size);
#endif
    try {
        running->body();
    } catch (...) {
        thrown = std::current_exception();
    }
    running->ended = true;
    switch_to(&running->context, &entered_from, outer_stack, outer_size, true);
}

}  // namespace

void start_fiber(int number, void (*body)()) {
    while (fibers.size() <= static_cast<size_t>(number))
        fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers[number];
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber.stack.get(), stack_size);  // of frames that never returned
#endif
    fiber.body = body;
    fiber.ended = false;
    prepare(fiber);
}

bool enter_fiber(int number) {
    running = fibers[number].get();
    switch_to(&entered_from, &running->context, running->stack.get(), stack_size, false);
    if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    return !running->ended;
}

bool on_fiber(int number, const void* address) {
    const auto from = reinterpret_cast<uintptr_t>(fibers[number]->stack.get());
    return reinterpret_cast<uintptr_t>(address) - from < stack_size;
}

void leave_fiber() { switch_to(&running->context, &entered_from, outer_stack, outer_size, false); }

}  // namespace minillm::on_host
