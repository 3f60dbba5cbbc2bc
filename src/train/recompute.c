#include <stdlib.h>
#include <string.h>

#include "train/task.h"

/* The budget of a rank (conf->memory) and the segments that are recomputed for it. Every trial is a whole plan, so its bytes are exact. */

typedef struct {
    int segment;        /* from 0 */
    double bytes, flops; /* kept without recomputation, and the work to make it again */
} Candidate;

typedef struct {
    TrainTask *t;
    const Graph *base;  /* forward only */
    uint8_t *mask;      /* [count] */
    Candidate *order;   /* [count], cheapest first */
    int count;
    double least;       /* smallest peak of any trial */
} Search;

static int differentiate(TrainTask *t, const uint8_t *mask)
{
    TRY(graph_backward_some(t->now.g, t->now.loss, t->now.seed, t->now.wrt, t->nwrt, t->now.grad, mask));
    graph_output(t->now.g, t->now.loss, "loss");
    for (int i = 0; i < t->nwrt; i++) {
        if (t->now.grad[i] < 0)
            return err_set(ERR_NOTFOUND, "'%s' has no influence on the loss", graph_tensor(t->now.g, t->now.wrt[i])->name);
        graph_output(t->now.g, t->now.grad[i], NULL);
    }
    TRY(graph_optimize(t->now.g, t->be));
    return plan_create(&t->now.plan, t->now.g, t->be);
}

static double peak(const TrainTask *t)
{
    double arena, params, state;
    train_task_bytes(t, &arena, &params, &state);
    return arena + params + state;
}

/* Puts the plan for s->mask into the task. */
static int try_mask(Search *s, double *bytes)
{
    TrainTask *t = s->t;
    plan_destroy(t->now.plan);
    t->now.plan = NULL;
    if (t->now.g != s->base)
        graph_destroy(t->now.g);
    t->now.g = NULL;
    TRY(graph_copy(&t->now.g, s->base));
    TRY(differentiate(t, s->mask));
    *bytes = peak(t);
    if (*bytes < s->least || !(s->least > 0))
        s->least = *bytes;
    return 0;
}

/* The first n of the order. */
static int try_first(Search *s, int n, double *bytes)
{
    memset(s->mask, 0, (size_t)s->count + 1);
    for (int i = 0; i < n; i++)
        s->mask[s->order[i].segment] = 1;
    return try_mask(s, bytes);
}

static int by_price(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    double p = x->flops * y->bytes, q = y->flops * x->bytes;
    return p < q ? -1 : p > q ? 1 : x->segment - y->segment;
}

/* What a segment's activations that nobody outside reads take, and its work. */
static void measure(Search *s)
{
    const Graph *g = s->base;
    for (int i = 0; i < s->count; i++)
        s->order[i] = (Candidate){i, 1, 0};
    uint8_t *outside = calloc((size_t)graph_tensor_count(g) + 1, 1);
    for (int i = 0; outside && i < graph_node_count(g); i++)
        for (int j = 0; j < graph_node(g, i)->nin; j++) {
            int made = graph_tensor(g, graph_node(g, i)->in[j])->node;
            if (made >= 0 && graph_node(g, made)->segment != graph_node(g, i)->segment)
                outside[graph_node(g, i)->in[j]] = 1;
        }
    for (int i = 0; i < graph_node_count(g); i++) {
        const GraphNode *n = graph_node(g, i);
        if (!n->segment)
            continue;
        Candidate *c = &s->order[n->segment - 1];
        c->flops += graph_node_flops(g, i);
        for (int j = 0; j < n->nout; j++)
            if (!outside || !outside[n->out[j]])
                c->bytes += (double)shape_count(&graph_meta(g, n->out[j])->shape) * (double)dtype_size(graph_meta(g, n->out[j])->dtype);
    }
    free(outside);
    qsort(s->order, (size_t)s->count, sizeof *s->order, by_price);
}

/* Fewest of the order that fit; then single ones that turn out not to be needed, the dearest first. The last trial is the one kept. */
static int search(Search *s, double limit)
{
    double bytes;
    int low = 0, high = s->count;
    TRY(try_first(s, 0, &bytes));
    if (bytes <= limit)
        return 0;
    TRY(try_first(s, s->count, &bytes));
    for (int n = 1; bytes > limit && n < s->count; n++) { /* where the ends of the order do not pay, its middle may */
        TRY(try_first(s, n, &bytes));
        high = n;
    }
    if (bytes > limit)
        return err_set(ERR_RANGE, "memory %.1f MiB: even with activations recomputed (up to all %d segments) a rank needs %.1f MiB, the least "
                       "possible with these settings; lower micro_batch or resolution, set dtype=bf16, or give it more memory",
                       limit / (1 << 20), s->count, s->least / (1 << 20));
    while (high - low > 1) {
        int mid = (low + high) / 2;
        TRY(try_first(s, mid, &bytes));
        if (bytes <= limit)
            high = mid;
        else
            low = mid;
    }
    TRY(try_first(s, high, &bytes));
    for (int i = high - 1, trials = 0; i >= 0 && trials < 8; i--, trials++) {
        s->mask[s->order[i].segment] = 0;
        TRY(try_mask(s, &bytes));
        if (bytes > limit)
            s->mask[s->order[i].segment] = 1;
    }
    return try_mask(s, &bytes);
}

/* A segment's name: what its parameters' names have in common, up to a dot. */
static void segment_name(const Graph *g, int segment, char *out, size_t size)
{
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < graph_node_count(g); i++)
        for (int j = 0; graph_node(g, i)->segment == segment && j < graph_node(g, i)->nin; j++) {
            const GraphTensor *t = graph_tensor(g, graph_node(g, i)->in[j]);
            if (t->kind != TENSOR_PARAM || !strncmp(t->name, "lora.", 5))
                continue;
            if (!out[0])
                n = strlen(strncat(out, t->name, size - 1));
            size_t k = 0;
            while (k < n && out[k] == t->name[k])
                k++;
            n = k;
        }
    out[n] = 0;
    char *dot = strrchr(out, '.');
    if (dot)
        *dot = 0;
}

static int describe(Search *s, double limit)
{
    StrBuf b;
    double work = 0, all = graph_flops(s->t->now.g);
    int n = 0;
    str_init(&b);
    for (int i = 0; i < s->count; i++)
        if (s->mask[s->order[i].segment]) {
            work += s->order[i].flops;
            n++;
        }
    str_add_format(&b, "memory %.1f MiB: a rank takes %.1f MiB with %d of %d segments recomputed (%.1f %% of the work)", limit / (1 << 20),
                   peak(s->t) / (1 << 20), n, s->count, all > 0 ? 100 * work / all : 0);
    for (int i = 0, k = 0; i < s->count; i++) {
        char name[256];
        if (!s->mask[i])
            continue;
        segment_name(s->base, i + 1, name, sizeof name);
        str_add_format(&b, "%s %s", k++ ? "," : ":", name);
    }
    return str_take(&s->t->recomputed, &b);
}

int train_task_make_plan(TrainTask *t)
{
    const TrainConf *c = t->conf;
    int count = graph_segment_count(t->now.g), rc;
    Search s = {.t = t, .base = t->now.g, .count = count, .mask = calloc((size_t)count + 1, 1), .order = malloc(((size_t)count + 1) * sizeof *s.order)};
    if (!s.mask || !s.order) {
        rc = err_set(ERR_NOMEM, "training graph: out of memory");
    } else if (!c->memory) {
        memset(s.mask, c->gradient_checkpointing, (size_t)count + 1);
        rc = differentiate(t, s.mask);
    } else {
        measure(&s);
        rc = search(&s, (double)c->memory);
        if (rc >= 0)
            rc = describe(&s, (double)c->memory);
        if (t->now.g == s.base)
            t->now.g = NULL;
        graph_destroy((Graph *)s.base);
    }
    free(s.mask);
    free(s.order);
    return rc;
}
