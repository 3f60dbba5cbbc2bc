/* The scheduler. Compiled without -fsanitize=thread: what orders memory is told to TSan by hand. TSan also watches malloc, memset
 * and memcpy wherever they are called from, so nothing here uses them while a CUDA thread runs. */
#include "emu.h"

#include "fiber.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <unordered_map>
#include <vector>

#ifdef EMU_TSAN
extern "C" {
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
void __tsan_read_range(void *addr, unsigned long size);
void __tsan_write_range(void *addr, unsigned long size);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
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
static const uint32_t POISON = 0xffffffffu; /* NaN as float and as bf16 */
enum { WARP = 32, MAX_THREADS = 1024, DEFAULT_SHARED = 48 << 10, MOST_SHARED = 256 << 10, MOST_COPIES = 256, MOST_SITES = 512, MOST_STATICS = 64 };

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
    int copy_count;
    Copy copies[MOST_COPIES];
};

/* One declaration of static shared memory. */
struct Static {
    const void *key;
    size_t at, bytes;
};

struct Block {
    const char *kernel;
    const std::function<void()> *body;
    int count;                 /* threads */
    char *dynamic, *fixed;     /* MOST_SHARED and DEFAULT_SHARED bytes */
    size_t dynamic_bytes, fixed_bytes;
    Static statics[MOST_STATICS];
    int static_count;
    char sync[2], warp_sync[MAX_THREADS / WARP][2];
    int phase, warp_phase[MAX_THREADS / WARP];
};

Self *self;
uint64_t launches;

static Self outside;
static Fiber main_fiber;
/* Where blocks are unordered, neighbours run on different fibers: TSan takes what one fiber does to be in order. The fibers live until
 * the process ends. */
enum { SETS = 4 };
static std::vector<Thread *> *const pools = new std::vector<Thread *>[SETS];
static int set;
static Thread *current;
static Block block;
static int order = FORWARD;
static uint64_t order_seed = 1;
static bool race_grid;
static char block_sync, end_sync[2];
static Site barrier_sites[MOST_SITES];
static int barrier_count;
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

/* bytes: a multiple of 4, like p; as is shared memory. */
static void fill(void *p, uint32_t value, size_t bytes)
{
    volatile uint32_t *c = static_cast<volatile uint32_t *>(p);
    for (size_t i = 0; i < bytes / 4; i++)
        c[i] = value;
}

static void copy(void *to, const void *from, size_t bytes)
{
    volatile uint16_t *c = static_cast<volatile uint16_t *>(to); /* bf16 counts */
    for (size_t i = 0; i < bytes / 2; i++)
        c[i] = static_cast<const volatile uint16_t *>(from)[i];
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
        TSAN_ACQUIRE(&block_sync);
        if (!race_grid)
            TSAN_ACQUIRE(&end_sync[0]);
        (*block.body)();
        if (t->copy_count)
            fail(t->copies[0].at, "the thread ended with a cp.async that nobody waited for");
        TSAN_RELEASE(&end_sync[1]);
        t->state = DONE;
        yield();
    }
}

void barrier(Site at)
{
    int site = 0;
    while (site < barrier_count && (barrier_sites[site].line != at.line || barrier_sites[site].file != at.file))
        site++;
    if (site == barrier_count) {
        if (site == MOST_SITES)
            fail(at, "more than %d barriers", MOST_SITES);
        barrier_sites[barrier_count++] = at;
    }
    if (site == skip_barrier)
        return;
    Thread *t = current;
    t->state = AT_BARRIER;
    t->at = at;
    char *object = &block.sync[block.phase];
    TSAN_RELEASE(object);
    yield();
    TSAN_ACQUIRE(object);
}

static Thread *thread(int i) { return pools[set][static_cast<size_t>(i)]; }

static Thread *lane_of(const Thread *t, int lane)
{
    int i = t->view.warp * WARP + lane;
    return i < block.count ? thread(i) : nullptr;
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
    if (fn) { /* reads and writes the registers of other lanes, which order nothing */
#ifdef EMU_TSAN
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
        fn(op);
#ifdef EMU_TSAN
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
    }
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

void *shared_static(const void *key, size_t bytes, size_t align)
{
    Static *at = block.statics;
    for (; at < block.statics + block.static_count; at++)
        if (at->key == key)
            return block.fixed + at->at;
    size_t start = (block.fixed_bytes + align - 1) / align * align;
    if (start + bytes > DEFAULT_SHARED || block.static_count == MOST_STATICS)
        fail({block.kernel, 0}, "more than %d bytes or %d arrays of static shared memory", DEFAULT_SHARED, MOST_STATICS);
    *at = Static{key, start, bytes};
    block.static_count++;
    block.fixed_bytes = start + bytes;
    return block.fixed + start;
}

void *shared_dynamic(Site at)
{
    if (!block.dynamic_bytes)
        fail(at, "the launch asked for no dynamic shared memory");
    return block.dynamic;
}

void shared_check(Site at, const void *p, size_t bytes, size_t align)
{
    const char *c = static_cast<const char *>(p);
    if (reinterpret_cast<uintptr_t>(p) % align)
        fail(at, "shared address %p is not a multiple of %zu", p, align);
    if (c >= block.dynamic && c + bytes <= block.dynamic + block.dynamic_bytes)
        return;
    if (c >= block.fixed && c + bytes <= block.fixed + block.fixed_bytes)
        return;
    fail(at, "%p is not in this block's shared memory", p);
}

void copy_async(Site at, void *shared, const void *global, size_t bytes, size_t source)
{
    shared_check(at, shared, bytes, bytes);
    if (source && reinterpret_cast<uintptr_t>(global) % bytes)
        fail(at, "cp.async: global address %p is not a multiple of %zu", global, bytes);
    if (source > bytes || source % 2)
        fail(at, "cp.async: %zu bytes of source for %zu, expected an even number up to it", source, bytes);
    if (current->copy_count == MOST_COPIES)
        fail(at, "cp.async: more than %d copies of one thread are under way", MOST_COPIES);
    TSAN_WRITE(shared, bytes);
    fill(shared, POISON, bytes);
    current->copies[current->copy_count++] = Copy{shared, global, bytes, source, current->group, at};
}

void copy_commit() { current->group++; }

void copy_wait(Site at, int pending)
{
    (void)at;
    Thread *t = current;
    int kept = 0;
    for (int i = 0; i < t->copy_count; i++) {
        Copy c = t->copies[i];
        if (c.group >= t->group - pending) {
            t->copies[kept++] = c;
            continue;
        }
        TSAN_WRITE(c.shared, c.bytes);
        if (c.source)
            TSAN_READ(c.global, c.source);
        fill(c.shared, 0, c.bytes);
        copy(c.shared, c.global, c.source);
    }
    t->copy_count = kept;
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
        Thread *t = thread(i);
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
        thread(i)->state = READY;
    return true;
}

/* New memory for TSan: what other blocks did with it is forgotten. */
static char *map_fresh(char *p, size_t bytes)
{
    void *q = mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (p ? MAP_FIXED : 0), -1, 0);
    if (q == MAP_FAILED)
        abort();
    return static_cast<char *>(q);
}

static void start_block()
{
#ifdef EMU_TSAN
    if (race_grid) {
        if (block.dynamic_bytes)
            map_fresh(block.dynamic, block.dynamic_bytes);
        if (block.fixed_bytes)
            map_fresh(block.fixed, block.fixed_bytes);
    }
#endif
    fill(block.dynamic, POISON, block.dynamic_bytes);
    fill(block.fixed, POISON, (block.fixed_bytes + 3) / 4 * 4);
    for (int i = 0; i < block.count; i++) {
        Thread *t = thread(i);
        t->state = READY;
        t->group = 0;
    }
    TSAN_RELEASE(&block_sync);
}

static void run_block()
{
    std::vector<int> at;
    start_block();
    do {
        bool ran = true;
        make_order(at, block.count);
        while (ran) { /* until every thread is done or waits */
            ran = false;
            for (int i : at) {
                Thread *t = thread(i);
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
    if (!block.dynamic) {
        block.dynamic = map_fresh(nullptr, MOST_SHARED);
        block.fixed = map_fresh(nullptr, DEFAULT_SHARED);
    }
    map_fresh(block.fixed, DEFAULT_SHARED);
    fill(block.fixed, POISON, DEFAULT_SHARED);
    block.static_count = 0;
    block.fixed_bytes = 0;
    if (!main_fiber.tsan && !main_fiber.sp)
        fiber_main(&main_fiber);
    for (set = 0; set < (race_grid ? SETS : 1); set++) {
        std::vector<Thread *> &pool = pools[set];
        while (pool.size() < static_cast<size_t>(block.count)) {
            Thread *t = new Thread();
            fiber_init(&t->fiber, thread_loop, static_cast<unsigned>(pool.size()));
            pool.push_back(t);
        }
        for (int i = 0; i < block.count; i++) {
            unsigned u = static_cast<unsigned>(i);
            Self &v = pool[u]->view;
            v.thread = uint3{u % dim.x, u / dim.x % dim.y, u / dim.x / dim.y};
            v.block_dim = dim;
            v.grid_dim = grid;
            v.lane = i % WARP;
            v.warp = i / WARP;
        }
    }
    unsigned total = grid.x * grid.y * grid.z;
    for (unsigned n = 0; n < total; n++) {
        unsigned b = order == REVERSE ? total - 1 - n : n;
        set = race_grid ? static_cast<int>(n % SETS) : 0;
        uint3 at = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        for (int i = 0; i < block.count; i++)
            thread(i)->view.block = at;
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
    if (shared > MOST_SHARED)
        fail(here, "%zu bytes of dynamic shared memory", shared);
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
    emu::barrier_count = 0;
}

const char *emu_barrier_site(int n, int *line)
{
    *line = emu::barrier_sites[n].line;
    return emu::barrier_sites[n].file;
}

int emu_barriers_seen(void) { return emu::barrier_count; }

void emu_shared_limit(const void *kernel, size_t bytes) { emu::shared_limit[kernel] = bytes; }
}
