/* The scheduler. Compiled without -fsanitize=thread: what orders memory is told to TSan by hand. */
#include "emu.h"

#include "fiber.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <unordered_map>
#include <vector>

#ifdef EMU_TSAN
extern "C" {
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
void __tsan_read_range(void *addr, unsigned long size);
void __tsan_write_range(void *addr, unsigned long size);
}
#define TSAN_ACQUIRE(p) __tsan_acquire(p)
#define TSAN_RELEASE(p) __tsan_release(p)
#define TSAN_READ(p, n) __tsan_read_range(const_cast<void *>(static_cast<const void *>(p)), n)
#define TSAN_WRITE(p, n) __tsan_write_range(p, n)
#else
#define TSAN_ACQUIRE(p) (void)(p)
#define TSAN_RELEASE(p) (void)(p)
#define TSAN_READ(p, n) (void)(p)
#define TSAN_WRITE(p, n) (void)(p)
#endif

namespace emu {

enum State { READY, AT_BARRIER, AT_WARP, DONE };
enum { WARP = 32, MAX_THREADS = 1024, DEFAULT_SHARED = 48 << 10 };

struct Copy {
    void *shared;
    const void *global;
    size_t bytes, source;
    int group;
    Site at;
};

struct Thread {
    Fiber fiber;
    Self view;
    State state;
    Site at;
    unsigned mask;
    WarpFn fn;
    Operand op;
    bool ordered;
    int group;                 /* cp.async groups committed */
    std::vector<Copy> copies;
};

struct Block {
    const char *kernel;
    const std::function<void()> *body;
    int count;                 /* threads */
    std::vector<char> dynamic;
    size_t dynamic_bytes;
    std::map<const void *, std::pair<std::vector<char>, size_t>> statics;
    char sync[2], warp_sync[MAX_THREADS / WARP][2];
    int phase, warp_phase[MAX_THREADS / WARP];
};

Self *self;
uint64_t launches;

static Self outside;
static Fiber main_fiber;
static std::vector<Thread *> &pool = *new std::vector<Thread *>; /* lives until the process ends, like its fibers */
static Thread *current;
static Block block;
static int order = FORWARD;
static uint64_t order_seed = 1;
static bool race_grid;
static char launch_sync, end_sync[2];
static std::map<std::pair<const char *, int>, int> barrier_sites;
static int skip_barrier = -1;
static std::unordered_map<const void *, size_t> shared_limit;

void fail(Site at, const char *format, ...)
{
    va_list ap;
    fprintf(stderr, "emu: %s", block.kernel ? block.kernel : "no kernel");
    if (current)
        fprintf(stderr, " block (%u,%u,%u) thread (%u,%u,%u)", current->view.block.x, current->view.block.y, current->view.block.z,
                current->view.thread.x, current->view.thread.y, current->view.thread.z);
    fprintf(stderr, " at %s:%d: ", at.file, at.line);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

static void yield()
{
    Thread *t = current;
    current = nullptr;
    fiber_switch(&t->fiber, &main_fiber);
}

/* Never returns: the fiber is used again for the same thread number of later blocks. */
static void thread_loop()
{
    fiber_entered(&current->fiber, &main_fiber);
    for (;;) {
        Thread *t = current;
        TSAN_ACQUIRE(&launch_sync);
        if (!race_grid)
            TSAN_ACQUIRE(&end_sync[0]);
        (*block.body)();
        if (!t->copies.empty())
            fail(t->copies[0].at, "the thread ended with a cp.async that nobody waited for");
        TSAN_RELEASE(&end_sync[1]);
        t->state = DONE;
        yield();
    }
}

void barrier(Site at)
{
    auto key = std::make_pair(at.file, at.line);
    auto it = barrier_sites.find(key);
    if (it == barrier_sites.end())
        it = barrier_sites.emplace(key, static_cast<int>(barrier_sites.size())).first;
    if (it->second == skip_barrier)
        return;
    Thread *t = current;
    t->state = AT_BARRIER;
    t->at = at;
    char *object = &block.sync[block.phase];
    TSAN_RELEASE(object);
    yield();
    TSAN_ACQUIRE(object);
}

static Thread *lane_of(const Thread *t, int lane)
{
    int i = t->view.warp * WARP + lane;
    return i < block.count ? pool[static_cast<size_t>(i)] : nullptr;
}

void warp_meet(Site at, unsigned mask, WarpFn fn, void *data, const void *arg, bool ordered)
{
    Thread *t = current;
    if (!(mask >> t->view.lane & 1))
        fail(at, "lane %d is not in the mask %08x", t->view.lane, mask);
    t->at = at;
    t->mask = mask;
    t->fn = fn;
    t->op = Operand{t->view.lane, data, arg};
    t->ordered = ordered;
    t->state = AT_WARP;
    Operand op[WARP] = {};
    for (int l = 0; l < WARP; l++) {
        if (!(mask >> l & 1))
            continue;
        Thread *o = lane_of(t, l);
        if (!o || o->state == DONE)
            fail(at, "lane %d of the mask %08x %s", l, mask, o ? "has left the kernel" : "does not exist");
        if (o->state == AT_WARP && o->mask >> t->view.lane & 1 &&
            (o->mask != mask || o->fn != fn || o->at.line != at.line || o->at.file != at.file))
            fail(at, "lane %d waits at %s:%d with mask %08x; this lane's mask is %08x", l, o->at.file, o->at.line, o->mask, mask);
        if (o->state != AT_WARP || o->mask != mask) { /* not here yet */
            char *object = &block.warp_sync[t->view.warp][block.warp_phase[t->view.warp]];
            if (ordered)
                TSAN_RELEASE(object);
            yield();
            if (ordered)
                TSAN_ACQUIRE(object);
            return;
        }
        op[l] = o->op;
    }
    if (fn)
        fn(op);
    for (int l = 0; l < WARP; l++)
        if (mask >> l & 1)
            lane_of(t, l)->state = READY;
    if (ordered) {
        int &phase = block.warp_phase[t->view.warp];
        char *object = &block.warp_sync[t->view.warp][phase];
        TSAN_RELEASE(object);
        phase ^= 1;
        TSAN_ACQUIRE(object);
    }
}

static char *aligned(std::vector<char> &v, size_t align)
{
    uintptr_t p = reinterpret_cast<uintptr_t>(v.data());
    return v.data() + ((p + align - 1) / align * align - p);
}

void *shared_static(const void *key, size_t bytes, size_t align)
{
    auto &slot = block.statics[key];
    if (slot.first.size() < bytes + 128)
        slot.first.resize(bytes + 128);
    char *p = aligned(slot.first, align < 16 ? 16 : align);
    if (slot.second != bytes) { /* first thread of this block */
        memset(p, 0xff, bytes);
        TSAN_WRITE(p, 0);
        slot.second = bytes;
    }
    return p;
}

void *shared_dynamic(Site at)
{
    if (!block.dynamic_bytes)
        fail(at, "the launch asked for no dynamic shared memory");
    return aligned(block.dynamic, 128);
}

void shared_check(Site at, const void *p, size_t bytes, size_t align)
{
    if (reinterpret_cast<uintptr_t>(p) % align)
        fail(at, "shared address %p is not a multiple of %zu", p, align);
    const char *c = static_cast<const char *>(p);
    if (block.dynamic_bytes) {
        const char *d = aligned(block.dynamic, 128);
        if (c >= d && c + bytes <= d + block.dynamic_bytes)
            return;
    }
    for (auto &s : block.statics) {
        const char *d = s.second.first.data();
        if (c >= d && c + bytes <= d + s.second.first.size())
            return;
    }
    fail(at, "%p is not in this block's shared memory", p);
}

void copy_async(Site at, void *shared, const void *global, size_t bytes, size_t source)
{
    shared_check(at, shared, bytes, bytes);
    if (source && reinterpret_cast<uintptr_t>(global) % bytes)
        fail(at, "cp.async: global address %p is not a multiple of %zu", global, bytes);
    if (source > bytes)
        fail(at, "cp.async: %zu bytes of source for %zu", source, bytes);
    TSAN_WRITE(shared, bytes);
    memset(shared, 0xff, bytes);
    current->copies.push_back(Copy{shared, global, bytes, source, current->group, at});
}

void copy_commit() { current->group++; }

void copy_wait(Site at, int pending)
{
    (void)at;
    Thread *t = current;
    size_t kept = 0;
    for (size_t i = 0; i < t->copies.size(); i++) {
        Copy c = t->copies[i];
        if (c.group >= t->group - pending) {
            t->copies[kept++] = c;
            continue;
        }
        TSAN_WRITE(c.shared, c.bytes);
        if (c.source)
            TSAN_READ(c.global, c.source);
        memset(c.shared, 0, c.bytes);
        if (c.source)
            memcpy(c.shared, c.global, c.source);
    }
    t->copies.resize(kept);
}

static uint64_t next_random()
{
    order_seed ^= order_seed << 13;
    order_seed ^= order_seed >> 7;
    order_seed ^= order_seed << 17;
    return order_seed;
}

static void make_order(std::vector<int> &at, int n)
{
    at.resize(static_cast<size_t>(n));
    for (int i = 0; i < n; i++)
        at[static_cast<size_t>(i)] = order == REVERSE ? n - 1 - i : i;
    if (order == SHUFFLED)
        for (int i = n - 1; i > 0; i--)
            std::swap(at[static_cast<size_t>(i)], at[static_cast<size_t>(next_random() % static_cast<uint64_t>(i + 1))]);
}

/* All threads are done, at a barrier or in a warp operation that is not complete. */
static bool settle()
{
    int done = 0, waiting = 0;
    Thread *first = nullptr, *stuck = nullptr;
    for (int i = 0; i < block.count; i++) {
        Thread *t = pool[static_cast<size_t>(i)];
        done += t->state == DONE;
        if (t->state == AT_BARRIER) {
            waiting++;
            if (!first)
                first = t;
            else if (t->at.line != first->at.line || t->at.file != first->at.file) {
                current = t;
                fail(t->at, "barrier: other threads wait at %s:%d", first->at.file, first->at.line);
            }
        }
        if (t->state == AT_WARP)
            stuck = t;
    }
    if (done == block.count)
        return false;
    current = stuck ? stuck : first;
    if (stuck)
        fail(stuck->at, "warp operation with mask %08x: not all of its lanes come", stuck->mask);
    if (done)
        fail(first->at, "barrier: %d of %d threads have left the kernel", done, block.count);
    current = nullptr;
    block.phase ^= 1;
    for (int i = 0; i < block.count; i++)
        pool[static_cast<size_t>(i)]->state = READY;
    return true;
}

static void run_block()
{
    std::vector<int> at;
    if (block.dynamic_bytes)
        memset(block.dynamic.data(), 0xff, block.dynamic.size());
    for (auto &s : block.statics)
        s.second.second = 0;
    for (int i = 0; i < block.count; i++) {
        Thread *t = pool[static_cast<size_t>(i)];
        t->state = READY;
        t->group = 0;
        if (race_grid)
            fiber_renew(&t->fiber);
    }
    do {
        bool ran = true;
        make_order(at, block.count);
        while (ran) { /* until every thread is done or waits */
            ran = false;
            for (int i : at) {
                Thread *t = pool[static_cast<size_t>(i)];
                if (t->state != READY)
                    continue;
                ran = true;
                current = t;
                self = &t->view;
                fiber_switch(&main_fiber, &t->fiber);
            }
        }
    } while (settle());
    self = &outside;
    if (!race_grid) { /* the next block comes after this one */
        TSAN_ACQUIRE(&end_sync[1]);
        TSAN_RELEASE(&end_sync[0]);
    }
}

static void run_grid(const char *name, dim3 grid, dim3 dim, size_t shared, const std::function<void()> &body)
{
    block.kernel = name;
    block.body = &body;
    block.count = static_cast<int>(dim.x * dim.y * dim.z);
    block.dynamic_bytes = shared;
    if (block.dynamic.size() < shared + 128)
        block.dynamic.resize(shared + 128);
    block.statics.clear();
    if (!main_fiber.tsan && !main_fiber.sp)
        fiber_main(&main_fiber);
    while (pool.size() < static_cast<size_t>(block.count)) {
        Thread *t = new Thread();
        fiber_init(&t->fiber, thread_loop, static_cast<unsigned>(pool.size()));
        pool.push_back(t);
    }
    for (int i = 0; i < block.count; i++) {
        unsigned u = static_cast<unsigned>(i);
        Self &v = pool[static_cast<size_t>(i)]->view;
        v.thread = uint3{u % dim.x, u / dim.x % dim.y, u / dim.x / dim.y};
        v.block_dim = dim;
        v.grid_dim = grid;
        v.lane = i % WARP;
        v.warp = i / WARP;
    }
    TSAN_RELEASE(&launch_sync);
    unsigned total = grid.x * grid.y * grid.z;
    for (unsigned n = 0; n < total; n++) {
        unsigned b = order == REVERSE ? total - 1 - n : n;
        uint3 at = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        for (int i = 0; i < block.count; i++)
            pool[static_cast<size_t>(i)]->view.block = at;
        run_block();
    }
    TSAN_ACQUIRE(&end_sync[1]);
    block.kernel = nullptr;
}

void launch(const char *name, const void *kernel, dim3 grid, dim3 dim, size_t shared, void *stream, std::function<void()> body)
{
    Site here = {name, 0};
    uint64_t threads = static_cast<uint64_t>(dim.x) * dim.y * dim.z;
    if (!threads || threads > MAX_THREADS)
        fail(here, "%llu threads in a block, expected 1..%d", static_cast<unsigned long long>(threads), MAX_THREADS);
    if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        fail(here, "grid %u x %u x %u", grid.x, grid.y, grid.z);
    if (shared > DEFAULT_SHARED && shared_limit[kernel] < shared)
        fail(here, "%zu bytes of dynamic shared memory without cudaFuncSetAttribute", shared);
    launches++;
    enqueue(stream, [=] { run_grid(name, grid, dim, shared, body); });
}

} // namespace emu

extern "C" {
void emu_order(int o, uint64_t seed)
{
    emu::order = o;
    emu::order_seed = seed * 2654435761u + 1;
}

void emu_race_grid(int on) { emu::race_grid = on != 0; }

void emu_skip_barrier(int n)
{
    emu::skip_barrier = n;
    emu::barrier_sites.clear();
}

int emu_barriers_seen(void) { return static_cast<int>(emu::barrier_sites.size()); }

void emu_shared_limit(const void *kernel, size_t bytes) { emu::shared_limit[kernel] = bytes; }
}
