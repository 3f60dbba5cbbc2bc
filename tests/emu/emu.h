/* The CUDA execution model on the CPU: what kernels/device.h uses in place of nvcc's language and what tests/emu/cudart.cpp
 * runs launches on.
 *
 * Every CUDA thread is a fiber; the blocks of a launch run one after another on one OS thread. A fiber gives way only at a
 * barrier or a warp operation, so an order of threads (emu_order) decides which interleaving is seen. Checked while
 * running, each failure printed with kernel, block, thread, file and line, then abort():
 *  - a barrier that some thread left the kernel without reaching, or that threads reach at different lines;
 *  - a warp operation whose mask lacks the caller, names exited lanes, or meets another operation, mask or line;
 *  - shared memory beyond what the launch asked for, or above 48 KiB without cudaFuncSetAttribute; misaligned ldmatrix, cp.async;
 *  - a block that ends with copies nobody waited for. Shared memory starts as NaN; the destination of a cp.async is NaN until waited for.
 * Under ThreadSanitizer each CUDA thread is a TSan fiber: __syncthreads and __syncwarp order memory, shuffles and mma do not;
 * blocks are ordered one after another (emu_race_grid(0), the default) or not at all (1).
 * Not seen here: memory ordering between blocks, registers, bank conflicts, the text of the PTX.
 */
#ifndef TESTS_EMU_EMU_H
#define TESTS_EMU_EMU_H

#include <cstddef>
#include <cstdint>
#include <functional>

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace emu {

enum Order { FORWARD, REVERSE, SHUFFLED };

/* What the running CUDA thread sees; a pointer because fibers switch under it. */
struct Self {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    int lane, warp;
};
extern Self *self;

struct Site {
    const char *file;
    int line;
};

/* One lane's operand of a warp operation; meaning by kind. */
struct Operand {
    int lane;
    void *data;
    const void *arg;
};
/* Runs once, when the last lane of the mask arrives; op[i] belongs to lane i (data NULL: not in the mask). */
typedef void (*WarpFn)(Operand op[32]);

void barrier(Site at);
/* Blocks until all lanes of mask are here with the same fn. ordered: also orders memory (__syncwarp). */
void warp_meet(Site at, unsigned mask, WarpFn fn, void *data, const void *arg, bool ordered = false);
/* The block's static shared memory of one declaration (key): allocated and poisoned by the first thread that asks. */
void *shared_static(const void *key, size_t bytes, size_t align);
void *shared_dynamic(Site at);
/* Whether [p, p+bytes) lies in this block's shared memory; fails otherwise. */
void shared_check(Site at, const void *p, size_t bytes, size_t align);
void copy_async(Site at, void *shared, const void *global, size_t bytes, size_t source_bytes);
void copy_commit();
void copy_wait(Site at, int pending);

/* Stream work: runs now, or is recorded while the stream is captured. */
void enqueue(void *stream, std::function<void()> work);
/* Work that waits for something outside: asked again until it returns true; what follows on the stream stays behind it. */
void enqueue_until(void *stream, std::function<bool()> over);
bool on_device(const void *p, size_t bytes); /* inside one live allocation */
void launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, void *stream, std::function<void()> body);
void fail(Site at, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

extern uint64_t launches; /* so far; for tests */

} // namespace emu

extern "C" {
void emu_order(int order, uint64_t seed);
void emu_race_grid(int on);
/* Skips the n-th static barrier (in order of first execution since the last call); -1: none. For mutation tests. */
void emu_skip_barrier(int n);
int emu_barriers_seen(void);
const char *emu_barrier_site(int n, int *line); /* file and line of barrier n < emu_barriers_seen() */
}

#define EMU_HERE (emu::Site{__FILE__, __LINE__})
#endif
