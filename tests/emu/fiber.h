/* A stack and a place to go on. Internal to tests/emu. */
#ifndef TESTS_EMU_FIBER_H
#define TESTS_EMU_FIBER_H

#include <cstddef>

namespace emu {

struct Fiber {
    void *sp = nullptr;        /* saved stack pointer */
    char *stack = nullptr;     /* lowest address; nullptr: the OS thread's own */
    size_t size = 0;
    void *tsan = nullptr;
    void *asan_fake = nullptr;
    const void *asan_bottom = nullptr;
    size_t asan_size = 0;
};

/* Gives f a stack on which entry() starts at the first switch; entry must never return. `colour` staggers the stack tops, which
 * would otherwise share cache sets. */
void fiber_init(Fiber *f, void (*entry)(), unsigned colour);
void fiber_deinit(Fiber *f);
void fiber_main(Fiber *f);
void fiber_switch(Fiber *from, Fiber *to);
/* First thing entry() calls. */
void fiber_entered(Fiber *self, Fiber *from);

} // namespace emu
#endif
