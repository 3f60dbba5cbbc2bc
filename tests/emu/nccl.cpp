/* Stand-in for NCCL: sums of int64 over the processes of an MPI job, or over several communicators of one process. Calls with blocking=0
 * behave as the library's do at their worst: joining goes on while ncclCommGetAsyncError is asked, an all-reduce is put on its stream only
 * then, and its result is NaN-like garbage until it is there.
 *
 * EMU_NCCL_FAULT="RANK KIND [N [SECONDS]]" makes one rank misbehave: "1 absent" never joins; "1 stall 3" its stream never gets to all-reduce 3 (from
 * 1), "1 late 3 0.5" half a second late; "1 error 3" its all-reduce 3 fails. */
#include "emu.h"

#include "include/cuda_runtime.h"

#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7, INT64 = 4, SUM = 0, VERSION = 21800 };

typedef struct {
    char internal[128];
} ncclUniqueId;
struct ncclConfig {
    size_t size;
    unsigned magic, version;
    int blocking;
};

/* One all-reduce of the communicators of one process. */
struct Meeting {
    std::vector<int64_t *> x;
    std::vector<int64_t> sum;
    size_t n = 0;
};
struct Group {
    int joined = 0;
    std::map<int64_t, Meeting> meeting;
};
static std::map<int64_t, std::shared_ptr<Group>> groups;

struct ncclComm {
    int rank, size, blocking;
    int64_t key;
    std::shared_ptr<Group> group; /* within this process; else over MPI: */
    MPI_Comm mpi = MPI_COMM_NULL;
    MPI_Request joining = MPI_REQUEST_NULL;
    int64_t keys[2];
    int stage = 0; /* of joining: 0 duplicating, 1 comparing, 2 joined */
    int error = SUCCESS, finalizing = 0;
    bool aborted = false;
    int64_t count = 0;
    std::function<void()> deferred;
    int delay = 0;
};

struct Fault {
    int rank = -1;
    char kind[16] = "";
    long long number = 0;
    double seconds = 0;
};

static Fault fault()
{
    Fault f;
    const char *s = getenv("EMU_NCCL_FAULT");
    if (s && sscanf(s, "%d %15s %lld %lf", &f.rank, f.kind, &f.number, &f.seconds) < 2)
        f.rank = -1;
    return f;
}

static bool is_faulty(const ncclComm *c, const char *kind, int64_t number)
{
    Fault f = fault();
    return f.rank == c->rank && !strcmp(f.kind, kind) && (f.number == number || !number);
}

static bool over_mpi(int size)
{
    int on = 0, off = 0, world = 1;
    MPI_Initialized(&on);
    MPI_Finalized(&off);
    if (on && !off)
        MPI_Comm_size(MPI_COMM_WORLD, &world);
    return on && !off && size > 1 && world == size;
}

static bool done(MPI_Request *r)
{
    int yes = 0;
    MPI_Test(r, &yes, MPI_STATUS_IGNORE);
    return yes;
}

/* Whether all are there. Different ids never meet in the library; here they are refused. */
static bool joined(ncclComm *c)
{
    if (is_faulty(c, "absent", 0))
        return false;
    if (c->group)
        return c->group->joined == c->size;
    if (c->stage < 2 && c->joining == MPI_REQUEST_NULL && c->stage == 0)
        MPI_Comm_idup(MPI_COMM_WORLD, &c->mpi, &c->joining);
    if (c->stage == 0 && done(&c->joining)) {
        c->keys[0] = c->key;
        c->keys[1] = -c->key;
        MPI_Iallreduce(MPI_IN_PLACE, c->keys, 2, MPI_INT64_T, MPI_MAX, c->mpi, &c->joining);
        c->stage = 1;
    }
    if (c->stage == 1 && done(&c->joining)) {
        c->error = c->keys[0] == -c->keys[1] ? SUCCESS : INVALID_USAGE;
        c->stage = 2;
    }
    return c->stage == 2;
}

static void garble(int64_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = static_cast<int64_t>(0x7ff80000dead0000u + i);
}

/* ---- all-reduce, as something that a stream asks again and again ---- */

static std::function<bool()> sum_over_mpi(ncclComm *c, const int64_t *from, int64_t *to, size_t n)
{
    struct State {
        std::vector<int64_t> x;
        MPI_Request r = MPI_REQUEST_NULL;
        bool begun = false;
    };
    auto s = std::make_shared<State>();
    return [=] {
        if (c->aborted)
            return true;
        if (!s->begun) {
            s->begun = true;
            s->x.assign(from, from + n);
            garble(to, n);
            MPI_Iallreduce(MPI_IN_PLACE, s->x.data(), static_cast<int>(n), MPI_INT64_T, MPI_SUM, c->mpi, &s->r);
        }
        if (!done(&s->r))
            return false;
        memcpy(to, s->x.data(), n * sizeof *to);
        return true;
    };
}

static std::function<bool()> sum_in_process(ncclComm *c, const int64_t *from, int64_t *to, size_t n)
{
    std::shared_ptr<Group> g = c->group;
    int64_t k = c->count;
    auto begun = std::make_shared<bool>(false);
    return [=] {
        Meeting &m = g->meeting[k];
        if (c->aborted)
            return true;
        if (!*begun) {
            *begun = true;
            m.sum.resize(n);
            for (size_t i = 0; i < n; i++)
                m.sum[i] += from[i];
            garble(to, n);
            m.x.push_back(to);
        }
        if (m.x.size() < static_cast<size_t>(c->size))
            return false;
        memcpy(to, m.sum.data(), n * sizeof *to);
        return true;
    };
}

static std::function<bool()> stall(ncclComm *c, double seconds)
{
    auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    return [=] { return c->aborted || (seconds > 0 && std::chrono::steady_clock::now() > end); };
}

extern "C" {

int ncclGetVersion(int *version)
{
    *version = VERSION;
    return getenv("EMU_NCCL_VERSION") ? (*version = atoi(getenv("EMU_NCCL_VERSION")), SUCCESS) : SUCCESS;
}

int ncclGetUniqueId(ncclUniqueId *id)
{
    static int64_t next = 1;
    int64_t key = static_cast<int64_t>(getpid()) << 20 | next++;
    memset(id, 0x5a, sizeof *id);
    memcpy(id->internal, &key, sizeof key);
    return SUCCESS;
}

const char *ncclGetErrorString(int result)
{
    switch (result) {
    case SUCCESS: return "no error";
    case INVALID_ARGUMENT: return "invalid argument";
    case INVALID_USAGE: return "invalid usage";
    case REMOTE_ERROR: return "remote process exited or there was a network error";
    case IN_PROGRESS: return "NCCL operation in progress";
    default: return "unknown result code";
    }
}

int ncclCommGetAsyncError(ncclComm *c, int *error)
{
    if (c->error == SUCCESS && c->stage < 2 && !joined(c)) {
        *error = IN_PROGRESS;
        return SUCCESS;
    }
    c->stage = 2;
    if (c->error == SUCCESS && c->deferred && c->delay-- > 0) {
        *error = IN_PROGRESS;
        return SUCCESS;
    }
    if (c->deferred) {
        std::function<void()> work = std::move(c->deferred);
        c->deferred = nullptr;
        work();
    }
    *error = c->error;
    return SUCCESS;
}

static int wait(ncclComm *c)
{
    int error = IN_PROGRESS;
    while (c->blocking && error == IN_PROGRESS && ncclCommGetAsyncError(c, &error) == SUCCESS)
        usleep(100);
    return error;
}

static int grouped;

int ncclCommInitRankConfig(ncclComm **out, int size, ncclUniqueId id, int rank, const ncclConfig *config)
{
    if (rank < 0 || rank >= size || (config && (config->magic != 0xcafebeefu || config->size < sizeof *config)))
        return INVALID_ARGUMENT;
    ncclComm *c = new ncclComm{};
    c->rank = rank;
    c->size = size;
    c->blocking = !config || config->blocking != 0;
    memcpy(&c->key, id.internal, sizeof c->key);
    if (!over_mpi(size)) {
        std::shared_ptr<Group> &g = groups[c->key];
        if (!g)
            g = std::make_shared<Group>();
        g->joined++;
        c->group = g;
    }
    *out = c;
    return grouped ? static_cast<int>(SUCCESS) : wait(c);
}

int ncclAllReduce(const void *send, void *recv, size_t count, int type, int op, ncclComm *c, cudaStream_t stream)
{
    if (type != INT64 || op != SUM || (count && (!emu::on_device(send, count * 8) || !emu::on_device(recv, count * 8))))
        return INVALID_ARGUMENT;
    if (c->deferred || (c->stage < 2 && !(c->group && joined(c))) || c->finalizing)
        return INVALID_USAGE;
    c->stage = 2;
    c->count++;
    if (is_faulty(c, "error", c->count)) {
        c->error = REMOTE_ERROR;
        return c->blocking ? static_cast<int>(REMOTE_ERROR) : static_cast<int>(IN_PROGRESS);
    }
    const int64_t *from = static_cast<const int64_t *>(send);
    int64_t *to = static_cast<int64_t *>(recv);
    auto put = [=] {
        emu::enqueue_until(stream, c->group ? sum_in_process(c, from, to, count) : sum_over_mpi(c, from, to, count));
        if (is_faulty(c, "stall", c->count + 1) || is_faulty(c, "late", c->count + 1))
            emu::enqueue_until(stream, stall(c, fault().seconds));
    };
    if (c->blocking || c->count % 3 == 0) { /* at times it is done at once */
        put();
        return SUCCESS;
    }
    c->deferred = put;
    c->delay = 2;
    return IN_PROGRESS;
}

int ncclGroupStart(void)
{
    grouped++;
    return SUCCESS;
}

int ncclGroupEnd(void)
{
    grouped--;
    return SUCCESS;
}

int ncclCommFinalize(ncclComm *c)
{
    c->finalizing = 1;
    return c->blocking ? SUCCESS : IN_PROGRESS;
}

/* What is on streams still may ask for it: it stays. */
int ncclCommAbort(ncclComm *c)
{
    c->aborted = true;
    c->deferred = nullptr;
    return SUCCESS;
}

int ncclCommDestroy(ncclComm *c)
{
    if (c->mpi != MPI_COMM_NULL && over_mpi(c->size))
        MPI_Comm_free(&c->mpi);
    delete c;
    return SUCCESS;
}
}
