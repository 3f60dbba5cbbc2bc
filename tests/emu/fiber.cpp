/* Compiled without -fsanitize=thread: the switch tells TSan itself. */
#include "fiber.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
}
enum { TSAN_NO_SYNC = 1 };
#endif

namespace emu {

enum { STACK = 256 * 1024 };

#if defined(__x86_64__)
extern "C" void emu_switch_stack(void **save, void *to);
asm(".text\n.globl emu_switch_stack\n.type emu_switch_stack,@function\nemu_switch_stack:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
    ".size emu_switch_stack,.-emu_switch_stack\n");
#endif

void fiber_init(Fiber *f, void (*entry)(), unsigned colour)
{
    f->size = STACK;
    f->stack = static_cast<char *>(mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (f->stack == MAP_FAILED)
        abort();
#if defined(__x86_64__)
    void **top = reinterpret_cast<void **>(f->stack + STACK - 64 - 64 * (colour % 32));
    *--top = nullptr; /* where entry would return to; keeps the alignment of a call */
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    f->sp = top;
#else
    ucontext_t *c = new ucontext_t;
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = STACK - 64 * (colour % 32);
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
    f->sp = c;
#endif
    f->asan_bottom = f->stack;
    f->asan_size = STACK;
#ifdef EMU_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
}

void fiber_main(Fiber *f)
{
#if !defined(__x86_64__)
    f->sp = new ucontext_t;
#endif
#ifdef EMU_TSAN
    f->tsan = __tsan_get_current_fiber();
#endif
    (void)f;
}

void fiber_deinit(Fiber *f)
{
#ifdef EMU_TSAN
    if (f->stack && f->tsan)
        __tsan_destroy_fiber(f->tsan);
#endif
    if (f->stack)
        munmap(f->stack, f->size);
#if !defined(__x86_64__)
    delete static_cast<ucontext_t *>(f->sp);
#endif
    f->stack = nullptr;
}

void fiber_entered(Fiber *self, Fiber *from)
{
#if defined(__SANITIZE_ADDRESS__)
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self->asan_fake, &bottom, &size);
    if (!from->stack) {
        from->asan_bottom = bottom;
        from->asan_size = size;
    }
#endif
    (void)self;
    (void)from;
}

void fiber_switch(Fiber *from, Fiber *to)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from->asan_fake, to->asan_bottom, to->asan_size);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(to->tsan, TSAN_NO_SYNC);
#endif
#if defined(__x86_64__)
    emu_switch_stack(&from->sp, to->sp);
#else
    swapcontext(static_cast<ucontext_t *>(from->sp), static_cast<ucontext_t *>(to->sp));
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from->asan_fake, nullptr, nullptr);
#endif
}

} // namespace emu
