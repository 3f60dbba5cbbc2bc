/* Steps of LoRA training on the attention projections of a UNet of SD 1.5's size, 512x512, bf16, on inputs in device memory: forward and backward
 * pass, exact sum of the gradients, their norm, AdamW on the device, as src/train/step.c does on one rank. */
#include "net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "ops/train.h"

enum { RANK = 16, STEPS = 15 };

typedef struct {
    Net net;
    Lora *lora;
    NnModules modules;
    OpRef target, weight, seed, loss, *grad;
    OptimTable *table;
    OptimRate *rate;
    int64_t n;             /* values, each tensor at a multiple of 16 */
    float *param, *gradient, *m, *v;
    int64_t *sum;
    const float **grads;   /* device */
    int adopted;
} LoraRun;

static int find_modules(LoraRun *r, const Gpu *g, const UnetConfig *c)
{
    Net n;
    int rc = net_build(&n, g, c, 1, 64, 0, NULL, &r->modules);
    net_close(&n);
    return rc;
}

static int build(LoraRun *r, const Gpu *g, const UnetConfig *c, int64_t items)
{
    static const char *const targets[] = {"attn*.to_q", "attn*.to_k", "attn*.to_v", "attn*.to_out.0"};
    LoraSpec spec = {.kind = NN_ADAPTER_LORA, .rank = RANK, .alpha = RANK, .targets = targets, .ntargets = 4, .seed = 1};
    Net *n = &r->net;
    TRY(find_modules(r, g, c));
    TRY(lora_create(&r->lora, &spec, &r->modules));
    const NnLora *view[1] = {lora_nn(r->lora, 0, 1)};
    TRY(net_build(n, g, c, items, 64, 0, view, NULL));
    Shape image = graph_meta(n->graph, n->x)->shape;
    r->target = graph_input(n->graph, "target", DTYPE_F32, image);
    r->weight = graph_input(n->graph, "weight", DTYPE_F32, SHAPE(items));
    r->seed = graph_input(n->graph, "seed", DTYPE_F32, SHAPE(items));
    r->loss = op_mse(n->nn.b, n->out, nn_to_compute(&n->nn, r->target), r->weight);
    TRY(graph_status(n->graph));
    graph_output(n->graph, r->loss, "loss");
    r->grad = calloc((size_t)n->nn.ntrained + 1, sizeof *r->grad);
    if (!r->grad)
        return err_set(ERR_NOMEM, "out of memory");
    TRY(graph_backward(n->graph, r->loss, r->seed, n->nn.trained, n->nn.ntrained, r->grad, 0));
    for (int i = 0; i < n->nn.ntrained; i++) {
        char name[32];
        snprintf(name, sizeof name, "grad.%d", i);
        graph_output(n->graph, r->grad[i], name);
    }
    TRY(lora_add_params(r->lora, 0, n->params));
    TRY(net_fill(n));
    return nn_params_set_trainable(n->params, n->graph, n->nn.trained, n->nn.ntrained);
}

static int zeroed(LoraRun *r, void *out, size_t bytes)
{
    void *p;
    Backend *be = r->net.g->be;
    TRY(be->alloc(be, &p, bytes));
    memcpy(out, &p, sizeof p);
    return be->train->clear(be, p, bytes);
}

static NnParam *trained(const LoraRun *r, int i)
{
    return nn_params_find(r->net.params, graph_tensor(r->net.graph, r->net.nn.trained[i])->name);
}

/* The trained values and the optimizer's arrays go to the device. */
static int state(LoraRun *r)
{
    Net *n = &r->net;
    Backend *be = n->g->be;
    int count = n->nn.ntrained;
    OptimSlot *slot = calloc((size_t)count + 1, sizeof *slot);
    r->rate = calloc((size_t)count + 1, sizeof *r->rate);
    if (!slot || !r->rate) {
        free(slot);
        return err_set(ERR_NOMEM, "out of memory");
    }
    for (int i = 0; i < count; i++) {
        int64_t values = shape_count(&trained(r, i)->shape);
        slot[i] = (OptimSlot){.count = values, .at = r->n, .state = r->n, .place = r->n * (int64_t)sizeof(float)};
        r->rate[i] = (OptimRate){.lr = 1e-4f, .weight_decay = 0.01f};
        r->n += (values + 15) / 16 * 16;
    }
    int rc = be->train->table_create(be, &r->table, slot, count);
    size_t bytes = (size_t)r->n * sizeof(float);
    void *out[] = {&r->param, &r->gradient, &r->m, &r->v};
    for (int i = 0; i < 4 && rc >= 0; i++)
        rc = zeroed(r, out[i], bytes);
    if (rc >= 0)
        rc = zeroed(r, &r->sum, 2 * bytes);
    for (int i = 0; i < count && rc >= 0; i++) {
        const NnParam *p = trained(r, i);
        OpView v = {p->data, p->dtype, p->shape, p->version, p->frozen};
        rc = be->upload(be, r->param + slot[i].at, p->data, (size_t)slot[i].count * sizeof(float));
        if (rc >= 0)
            rc = be->train->adopt(be, &v, r->param + slot[i].at);
        r->adopted += rc >= 0;
    }
    free(slot);
    return rc;
}

static int gradients(LoraRun *r)
{
    Backend *be = r->net.g->be;
    size_t count = (size_t)r->net.nn.ntrained, bytes = count * sizeof(float *);
    const float **host = malloc(bytes + 1);
    if (!host)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        host[i] = exec_data(r->net.ex, r->grad[i]);
    int rc = zeroed(r, &r->grads, bytes);
    if (rc >= 0)
        rc = be->upload(be, r->grads, host, bytes);
    free(host);
    return rc;
}

static int write_inputs(LoraRun *r, uint32_t seed)
{
    Net *n = &r->net;
    int64_t count = shape_count(&graph_meta(n->graph, r->target)->shape);
    float *v = malloc((size_t)count * sizeof *v), one[64];
    if (!v)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < count; i++)
        v[i] = sinf((float)i + (float)seed);
    int rc = exec_write_f32(n->ex, r->target, v, count);
    free(v);
    TRY(rc);
    for (int i = 0; i < n->items; i++)
        one[i] = 1;
    TRY(exec_write_f32(n->ex, r->weight, one, n->items));
    for (int i = 0; i < n->items; i++)
        one[i] = 1.0f / (float)n->items;
    TRY(exec_write_f32(n->ex, r->seed, one, n->items));
    return net_write(n, seed);
}

static int step(LoraRun *r, int number, double *norm)
{
    Backend *be = r->net.g->be;
    const BackendTrain *t = be->train;
    int64_t left_out[1024], large;
    float loss[64];
    TRY(exec_run(r->net.ex));
    TRY(exec_read_f32(r->net.ex, r->loss, loss, r->net.items));
    TRY(t->clear(be, r->sum, (size_t)r->n * sizeof *r->sum));
    TRY(t->exact_add(be, r->table, 0, r->net.nn.ntrained, r->grads, r->sum, INT64_MAX / 2));
    TRY(t->exact_counts(be, r->table, left_out, &large));
    TRY(t->exact_to_float(be, r->gradient, r->sum, r->n, 1.0));
    TRY(t->sumsq(be, r->table, r->gradient, r->n, norm));
    *norm = sqrt(*norm);
    OptimStep s = {.kind = OPTIM_ADAMW, .p = r->param, .array = {r->m, r->v}, .grad = r->gradient, .rate = r->rate,
                   .a = {1e-4f, 0.9f, 0.999f, 1e-8f, 0.01f, number, 1.0f}};
    TRY(t->step(be, r->table, &s));
    return be->sync(be);
}

static int measure(LoraRun *r, const Gpu *g, const UnetConfig *c, int64_t items, const char *name)
{
    double all[STEPS], norm = 0;
    int steps = g->tiny ? 1 : STEPS;
    TRY(build(r, g, c, items));
    if (r->net.nn.ntrained > 1024)
        return err_set(ERR_RANGE, "%d trained tensors, expected at most 1024", r->net.nn.ntrained);
    TRY(state(r));
    TRY(net_plan(&r->net));
    TRY(gradients(r));
    TRY(write_inputs(r, 10));
    for (int i = g->tiny ? 0 : -2; i < steps; i++) {
        double t = gpu_now();
        TRY(step(r, i + 3, &norm));
        if (i >= 0)
            all[i] = gpu_now() - t;
    }
    if (!(norm > 0 && isfinite(norm)))
        return err_set(ERR_NUMERIC, "the gradient's norm is %g", norm);
    double s = gpu_median(all, steps);
    printf("net\t%s\t%.4g\t%.6g\t%.4g\timages/s\t0\n", name, s, graph_flops(r->net.graph), (double)items / s);
    fflush(stdout);
    return 0;
}

static void close_run(LoraRun *r)
{
    Backend *be = r->net.g ? r->net.g->be : NULL;
    exec_destroy(r->net.ex);
    r->net.ex = NULL;
    for (int i = 0; i < r->adopted; i++) {
        const NnParam *p = trained(r, i);
        OpView v = {p->data, p->dtype, p->shape, p->version, p->frozen};
        be->drop(be, &v);
    }
    if (r->table)
        be->train->table_destroy(be, r->table);
    void *device[] = {r->param, r->gradient, r->m, r->v, r->sum, r->grads};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i])
            be->free(be, device[i], 0);
    net_close(&r->net);
    lora_destroy(r->lora);
    nn_modules_deinit(&r->modules);
    free(r->grad);
    free(r->rate);
}

int gpu_lora(const Gpu *g)
{
    static const int batches[] = {1, 4, 8};
    UnetConfig c;
    net_sd15(g, &c);
    for (int i = 0; i < (g->tiny ? 1 : 3); i++) {
        char name[64];
        LoraRun r = {.n = 0};
        snprintf(name, sizeof name, "LoRA SD 1.5 512x512, batch %d", batches[i]);
        if (!gpu_wanted(g, name))
            continue;
        int rc = measure(&r, g, &c, batches[i], name);
        close_run(&r);
        TRY_CTX(rc, "%s", name);
    }
    return 0;
}
