#include "graph/exec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/pixel.h"
#include "graph/internal.h"

enum { PIECES = 16 };

typedef struct {
    OpCall call;
    OpView *views;      /* nin + nout, in this order */
    int node;
    int stale;          /* prepared for a frozen parameter that is another now */
} Step;

struct Exec {
    const Plan *plan;
    const Graph *g;
    Backend *be;
    char *arena;
    size_t arena_bytes;
    int borrowed;       /* the arena is another executor's */
    OpView *param;      /* per tensor, as bound; data NULL when unbound */
    OpView *held;       /* per tensor: what the backend's copy was made of; data NULL: none */
    void **device;      /* per tensor: that copy */
    Step *steps;
    OpView *views;
    int nstep, nview, prepared;
    int *watch_head;    /* [nstep]: first watched tensor that a step gives, -1: none */
    int *watch_next;    /* per watched tensor: another of the same step */
    void **ran_at;      /* per view: where it lay in the last whole run */
    int ran, unrecordable;
    void *piece[PIECES]; /* that run recorded (Backend.record_end): one piece, or more where tensors are watched */
    int npiece;         /* 0: not recorded */
    int64_t replays;
    int profile;
    double seconds[OP_COUNT], flops[OP_COUNT];
    int64_t calls[OP_COUNT];
};

static void *storage(const Exec *e, OpRef t)
{
    int64_t at = plan_offset(e->plan, t);
    if (at >= 0)
        return e->arena + at;
    return e->param[plan_storage(e->plan, t)].data;
}

static int make_steps(Exec *e)
{
    const Graph *g = e->g;
    size_t nview = 0;
    for (int i = 0; i < g->nnode; i++)
        nview += (size_t)(g->nodes[i].nin + g->nodes[i].nout);
    e->steps = calloc((size_t)plan_node_count(e->plan) + 1, sizeof *e->steps);
    e->views = calloc(nview + 1, sizeof *e->views);
    e->ran_at = calloc(nview + 1, sizeof *e->ran_at);
    if (!e->steps || !e->views || !e->ran_at)
        return err_set(ERR_NOMEM, "executor: out of memory");
    OpView *v = e->views;
    for (int i = 0; i < g->nnode; i++) {
        const GraphNode *n = &g->nodes[i];
        if (n->dead || n->kind == OP_RESHAPE)
            continue;
        Step *s = &e->steps[e->nstep++];
        s->node = i;
        s->views = v;
        s->call = (OpCall){n->kind, &n->attr, v, v + n->nin, n->nin, n->nout, NULL, NULL};
        size_t bytes;
        int64_t at = plan_scratch(e->plan, i, &bytes);
        if (bytes)
            s->call.scratch = e->arena + at;
        for (int j = 0; j < n->nin + n->nout; j++, v++) {
            OpRef t = j < n->nin ? n->in[j] : n->out[j - n->nin];
            *v = (OpView){storage(e, t), g->tensors[t].meta.dtype, g->tensors[t].meta.shape, 0, 0};
        }
    }
    e->nview = (int)(v - e->views);
    return 0;
}

static int create(Exec **out, const Plan *p, Exec *owner)
{
    Exec *e = calloc(1, sizeof *e);
    int rc = ERR_NOMEM;
    if (!e)
        return err_set(rc, "executor: out of memory");
    e->plan = p;
    e->g = plan_graph(p);
    e->be = plan_backend(p);
    e->arena_bytes = plan_arena_bytes(p);
    e->param = calloc((size_t)e->g->ntensor + 1, sizeof *e->param);
    e->held = calloc((size_t)e->g->ntensor + 1, sizeof *e->held);
    e->device = calloc((size_t)e->g->ntensor + 1, sizeof *e->device);
    if (!e->param || !e->held || !e->device) {
        err_set(rc, "executor: out of memory");
        goto done;
    }
    void *arena = owner ? owner->arena : NULL;
    e->borrowed = owner != NULL;
    if (!owner)
        TRY_GOTO(e->be->alloc(e->be, &arena, e->arena_bytes ? e->arena_bytes : 64));
    e->arena = arena;
    TRY_GOTO(make_steps(e));
    *out = e;
    e = NULL;
    rc = 0;
done:
    exec_destroy(e);
    return rc;
}

int exec_create(Exec **out, const Plan *p)
{
    return create(out, p, NULL);
}

int exec_create_within(Exec **out, const Plan *p, Exec *owner)
{
    if (owner->be != plan_backend(p) || plan_arena_bytes(p) > owner->arena_bytes)
        return err_set(ERR_RANGE, "executor: %zu bytes do not fit into an arena of %zu", plan_arena_bytes(p), owner->arena_bytes);
    return create(out, p, owner);
}

static void release_state(Exec *e, Step *s)
{
    OpCall *c = &s->call;
    if (c->state && e->be->op[c->kind].release)
        e->be->op[c->kind].release(e->be, c->state);
    c->state = NULL;
}

static void forget(Exec *e)
{
    for (int p = 0; p < e->npiece; p++)
        if (e->piece[p])
            e->be->forget(e->be, e->piece[p]);
    e->npiece = 0;
}

void exec_destroy(Exec *e)
{
    if (!e)
        return;
    if (e->be && e->be->record_begin && e->replays)
        log_line(LOG_JOB, "executor: %lld runs replayed, %d ops each", (long long)e->replays, e->nstep);
    forget(e);
    for (int i = 0; i < e->nstep; i++)
        release_state(e, &e->steps[i]);
    if (e->arena && !e->borrowed)
        e->be->free(e->be, e->arena, e->arena_bytes ? e->arena_bytes : 64);
    for (int i = 0; e->held && i < e->g->ntensor; i++)
        if (e->held[i].data)
            e->be->drop(e->be, &e->held[i]);
    free(e->watch_head);
    free(e->watch_next);
    free(e->held);
    free(e->device);
    free(e->param);
    free(e->steps);
    free(e->views);
    free(e->ran_at);
    free(e);
}

int exec_bind(Exec *e, OpRef param, const OpView *view)
{
    if (param < 0 || param >= e->g->ntensor || e->g->tensors[param].kind != TENSOR_PARAM)
        return err_set(ERR_NOTFOUND, "executor: tensor %d is not a parameter", (int)param);
    const GraphTensor *t = &e->g->tensors[param];
    char want[64], got[64];
    if (view->dtype != t->meta.dtype || !shape_equal(&view->shape, &t->meta.shape))
        return err_set(ERR_SHAPE, "parameter '%s': expected %s %s, got %s %s", t->name, dtype_name(t->meta.dtype),
                       shape_text(&t->meta.shape, want, sizeof want), dtype_name(view->dtype),
                       shape_text(&view->shape, got, sizeof got));
    e->param[param] = *view;
    return 0;
}

int exec_bind_name(Exec *e, const char *name, const OpView *view)
{
    OpRef t = graph_find(e->g, name);
    if (t < 0)
        return err_set(ERR_NOTFOUND, "executor: no parameter named '%s'", name);
    return exec_bind(e, t, view);
}

/* Where the ops find a parameter: bound values, or the backend's current copy of them. */
static int param_address(Exec *e, OpRef r, void **out)
{
    const OpView *b = &e->param[r];
    OpView *held = &e->held[r];
    *out = b->data;
    if (!e->be->acquire)
        return 0;
    if (held->data != b->data || held->version != b->version) {
        void *device;
        TRY_CTX(e->be->acquire(e->be, b, &device), "parameter '%s'", e->g->tensors[r].name);
        if (held->data)
            e->be->drop(e->be, held);
        *held = *b;
        e->device[r] = device;
    }
    *out = e->device[r];
    return 0;
}

/* Copies the bindings into the steps' views. */
static int refresh(Exec *e)
{
    for (int i = 0; i < e->nstep; i++) {
        Step *s = &e->steps[i];
        const GraphNode *n = &e->g->nodes[s->node];
        for (int j = 0; j < n->nin; j++) {
            OpRef r = plan_storage(e->plan, n->in[j]);
            if (e->g->tensors[r].kind != TENSOR_PARAM)
                continue;
            const OpView *b = &e->param[r];
            if (!b->data)
                return err_set(ERR_NOTFOUND, "executor: parameter '%s' is not bound", e->g->tensors[r].name);
            void *before = s->views[j].data;
            TRY(param_address(e, r, &s->views[j].data));
            s->stale |= (b->frozen || s->views[j].frozen) && (before != s->views[j].data || s->views[j].version != b->version);
            s->views[j].version = b->version;
            s->views[j].frozen = b->frozen;
        }
    }
    return 0;
}

static int prepare_step(Exec *e, Step *s)
{
    const BackendOp *op = &e->be->op[s->call.kind];
    if (!op->prepare)
        return 0;
    const GraphNode *n = &e->g->nodes[s->node];
    OpView in[OP_MAX_IN];
    for (int j = 0; j < n->nin; j++) {
        in[j] = s->views[j];
        if (e->g->tensors[plan_storage(e->plan, n->in[j])].kind != TENSOR_PARAM)
            in[j].data = NULL;
    }
    OpCall c = s->call;
    c.in = in;
    return op->prepare(e->be, &c, &s->call.state);
}

int exec_prepare(Exec *e)
{
    TRY(refresh(e));
    for (int i = 0; i < e->nstep; i++) {
        Step *s = &e->steps[i];
        if (e->prepared && !s->stale)
            continue;
        release_state(e, s);
        TRY_CTX(prepare_step(e, s), "preparing op %s", op_name(s->call.kind));
        e->ran &= !s->stale; /* what prepare made may have another address */
        s->stale = 0;
    }
    e->prepared = 1;
    return 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int gives(const Exec *e, const Step *s, OpRef t)
{
    const GraphNode *n = &e->g->nodes[s->node];
    for (int j = 0; j < n->nout; j++)
        if (n->out[j] == t)
            return 1;
    return 0;
}

/* The step after which t is there: the one that gives it, or what it is a reshape of. */
static int step_of(const Exec *e, OpRef t)
{
    int node = e->g->tensors[t].node;
    while (node >= 0 && e->g->nodes[node].kind == OP_RESHAPE)
        node = e->g->tensors[e->g->nodes[node].in[0]].node;
    for (int i = 0; i < e->nstep; i++)
        if (e->steps[i].node == node)
            return i;
    return -1;
}

int exec_watch(Exec *e, const OpRef *t, int n)
{
    int *head = malloc((size_t)(e->nstep + 1) * sizeof *head), *next = malloc((size_t)(n + 1) * sizeof *next);
    forget(e);
    free(e->watch_head);
    free(e->watch_next);
    e->watch_head = head;
    e->watch_next = next;
    if (!head || !next)
        return err_set(ERR_NOMEM, "executor: out of memory");
    for (int i = 0; i < e->nstep; i++)
        head[i] = -1;
    for (int i = n - 1; i >= 0; i--) {
        int k = step_of(e, t[i]);
        if (k < 0)
            return err_set(ERR_NOTFOUND, "executor: no op gives tensor %d", (int)t[i]);
        next[i] = head[k];
        head[k] = i;
    }
    return 0;
}

static int run_step(Exec *e, int i)
{
    const OpCall *c = &e->steps[i].call;
    double t0 = e->profile ? now() : 0;
    TRY_CTX(e->be->op[c->kind].run(e->be, c), "op %s (node %d)", op_name(c->kind), e->steps[i].node);
    if (!e->profile)
        return 0;
    if (e->be->sync)
        TRY(e->be->sync(e->be));
    e->seconds[c->kind] += now() - t0;
    e->calls[c->kind]++;
    e->flops[c->kind] += graph_node_flops(e->g, e->steps[i].node);
    return 0;
}

static int tell(const Exec *e, int step, ExecDone done, void *ctx)
{
    for (int k = e->watch_head[step]; k >= 0; k = e->watch_next[k])
        TRY(done(ctx, k));
    return 0;
}

static int run_steps(Exec *e, ExecDone done, void *ctx)
{
    for (int i = 0; i < e->nstep; i++) {
        TRY(run_step(e, i));
        if (done)
            TRY(tell(e, i, done, ctx));
    }
    return 0;
}

/* Whether everything lies where it lay in the last whole run; notes where it lies now. */
static int same_addresses(Exec *e)
{
    int same = e->ran;
    for (int i = 0; i < e->nview; i++) {
        same &= e->ran_at[i] == e->views[i].data;
        e->ran_at[i] = e->views[i].data;
    }
    e->ran = 1;
    return same;
}

static int first_of(const Exec *e, int piece)
{
    return (int)((int64_t)e->nstep * piece / e->npiece);
}

static int record_piece(Exec *e, int p)
{
    int rc = e->be->record_begin(e->be);
    if (rc < 0)
        return rc;
    for (int i = first_of(e, p); rc >= 0 && i < first_of(e, p + 1); i++)
        rc = run_step(e, i);
    int end = e->be->record_end(e->be, &e->piece[p]);
    return rc < 0 ? rc : end;
}

/* Where an op cannot be recorded they go on one by one. */
static void record(Exec *e)
{
    int rc = 0, n = e->watch_head ? PIECES : 1;
    memset(e->piece, 0, sizeof e->piece);
    e->npiece = n < e->nstep ? n : e->nstep;
    for (int p = 0; rc >= 0 && p < e->npiece; p++)
        rc = record_piece(e, p);
    if (rc >= 0)
        return;
    forget(e);
    e->unrecordable = 1;
    log_line(LOG_JOB, "executor: its ops are launched one by one, they cannot be recorded: %s", err_message());
}

static int replay(Exec *e, ExecDone done, void *ctx)
{
    e->replays++;
    for (int p = 0; p < e->npiece; p++) {
        TRY(e->be->replay(e->be, e->piece[p]));
        for (int i = first_of(e, p); done && i < first_of(e, p + 1); i++)
            TRY(tell(e, i, done, ctx));
    }
    return 0;
}

/* All steps. A run at the addresses of the one before is recorded, so that graphs that run once, or with other parameters each
 * time, do not pay for it (and all kernels are loaded by then). */
static int run_whole(Exec *e, ExecDone done, void *ctx)
{
    TRY(exec_prepare(e));
    if (e->be->record_begin && !e->profile) {
        if (!same_addresses(e))
            forget(e);
        else if (!e->npiece && !e->unrecordable)
            record(e);
    }
    TRY(e->npiece && !e->profile ? replay(e, done, ctx) : run_steps(e, done, ctx));
    return e->be->sync ? e->be->sync(e->be) : 0;
}

int exec_run(Exec *e)
{
    return run_whole(e, NULL, NULL);
}

int exec_run_watched(Exec *e, ExecDone done, void *ctx)
{
    return run_whole(e, done, ctx);
}

int exec_run_to(Exec *e, OpRef t)
{
    TRY(exec_prepare(e));
    for (int i = 0; i < e->nstep; i++) {
        TRY(run_step(e, i));
        if (gives(e, &e->steps[i], t))
            break;
    }
    return e->be->sync ? e->be->sync(e->be) : 0;
}

int64_t exec_replays(const Exec *e)
{
    return e->replays;
}

void *exec_data(const Exec *e, OpRef t)
{
    return t < 0 || t >= e->g->ntensor ? NULL : storage(e, t);
}

static int64_t checked_count(const Exec *e, OpRef t)
{
    return exec_data(e, t) ? shape_count(&e->g->tensors[t].meta.shape) : -1;
}

static int bad_size(const Exec *e, OpRef t, long long got)
{
    const char *name = t >= 0 && t < e->g->ntensor && e->g->tensors[t].name ? e->g->tensors[t].name : "?";
    return err_set(ERR_SHAPE, "executor: tensor '%s' does not exist in the plan or has another size than %lld", name, got);
}

int exec_write(Exec *e, OpRef t, const void *host, size_t bytes)
{
    int64_t n = checked_count(e, t);
    if (n < 0 || (size_t)n * dtype_size(e->g->tensors[t].meta.dtype) != bytes)
        return bad_size(e, t, (long long)bytes);
    return e->be->upload(e->be, storage(e, t), host, bytes);
}

int exec_read(const Exec *e, OpRef t, void *host, size_t bytes)
{
    int64_t n = checked_count(e, t);
    if (n < 0 || (size_t)n * dtype_size(e->g->tensors[t].meta.dtype) != bytes)
        return bad_size(e, t, (long long)bytes);
    return e->be->download(e->be, host, storage(e, t), bytes);
}

int exec_write_f32(Exec *e, OpRef t, const float *host, int64_t count)
{
    if (checked_count(e, t) != count)
        return bad_size(e, t, (long long)count);
    Dtype d = e->g->tensors[t].meta.dtype;
    size_t bytes = (size_t)count * dtype_size(d);
    if (d == DTYPE_F32)
        return e->be->upload(e->be, storage(e, t), host, bytes);
    void *tmp = malloc(bytes + 1);
    if (!tmp)
        return err_set(ERR_NOMEM, "executor: out of memory");
    int rc = dtype_convert(tmp, d, host, DTYPE_F32, count);
    if (rc >= 0)
        rc = e->be->upload(e->be, storage(e, t), tmp, bytes);
    free(tmp);
    return rc;
}

int exec_write_pixels(Exec *e, OpRef t, const uint8_t *host, int64_t count)
{
    if (checked_count(e, t) != count)
        return bad_size(e, t, (long long)count);
    if (e->be->upload_pixels)
        return e->be->upload_pixels(e->be, storage(e, t), e->g->tensors[t].meta.dtype, host, count);
    float *v = malloc((size_t)count * sizeof *v + 1);
    if (!v)
        return err_set(ERR_NOMEM, "executor: out of memory");
    for (int64_t i = 0; i < count; i++)
        v[i] = pixel_to_unit(host[i]);
    int rc = exec_write_f32(e, t, v, count);
    free(v);
    return rc;
}

int exec_read_f32(const Exec *e, OpRef t, float *host, int64_t count)
{
    if (checked_count(e, t) != count)
        return bad_size(e, t, (long long)count);
    Dtype d = e->g->tensors[t].meta.dtype;
    size_t bytes = (size_t)count * dtype_size(d);
    if (d == DTYPE_F32)
        return e->be->download(e->be, host, storage(e, t), bytes);
    void *tmp = malloc(bytes + 1);
    if (!tmp)
        return err_set(ERR_NOMEM, "executor: out of memory");
    int rc = e->be->download(e->be, tmp, storage(e, t), bytes);
    if (rc >= 0)
        rc = dtype_convert(host, DTYPE_F32, tmp, d, count);
    free(tmp);
    return rc;
}

void exec_profile(Exec *e, int on)
{
    e->profile = on;
    memset(e->seconds, 0, sizeof e->seconds);
    memset(e->flops, 0, sizeof e->flops);
    memset(e->calls, 0, sizeof e->calls);
}

void exec_profile_get(const Exec *e, double *seconds, int64_t *calls, double *flops)
{
    memcpy(seconds, e->seconds, sizeof e->seconds);
    memcpy(calls, e->calls, sizeof e->calls);
    memcpy(flops, e->flops, sizeof e->flops);
}
