#include "net.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void net_sd15(const Gpu *g, UnetConfig *c)
{
    *c = (UnetConfig){.levels = 4, .channels = {320, 640, 1280, 1280}, .layers = {2, 2, 2, 2}, .heads = {8, 8, 8, 8}, .depth = {1, 1, 1, 1},
                      .down_cross = {1, 1, 1, 0}, .up_cross = {0, 1, 1, 1}, .in_channels = 4, .out_channels = 4, .context = 768, .groups = 32,
                      .eps = 1e-5f, .flip_sin_to_cos = 1, .conv_in_kernel = 3, .conv_out_kernel = 3, .downsample_padding = 1,
                      .time_dim = 1280, .sample_size = 64};
    if (g->tiny)
        *c = (UnetConfig){.levels = 2, .channels = {32, 64}, .layers = {1, 1}, .heads = {2, 2}, .depth = {1, 1}, .down_cross = {1, 0},
                          .up_cross = {0, 1}, .in_channels = 4, .out_channels = 4, .context = 16, .groups = 8, .eps = 1e-5f,
                          .flip_sin_to_cos = 1, .conv_in_kernel = 3, .conv_out_kernel = 3, .downsample_padding = 1, .time_dim = 32,
                          .sample_size = 4};
}

void net_sdxl(const Gpu *g, UnetConfig *c)
{
    *c = (UnetConfig){.levels = 3, .channels = {320, 640, 1280}, .layers = {2, 2, 2}, .heads = {5, 10, 20}, .depth = {1, 2, 10},
                      .down_cross = {0, 1, 1}, .up_cross = {1, 1, 0}, .in_channels = 4, .out_channels = 4, .context = 2048, .groups = 32,
                      .eps = 1e-5f, .linear_projection = 1, .flip_sin_to_cos = 1, .conv_in_kernel = 3, .conv_out_kernel = 3,
                      .downsample_padding = 1, .time_dim = 1280, .sample_size = 128};
    if (g->tiny) {
        net_sd15(g, c);
        c->linear_projection = 1;
    }
}

int net_build(Net *n, const Gpu *g, const UnetConfig *c, int64_t items, int64_t side, int sdxl, const NnLora *const *lora, NnModules *modules)
{
    *n = (Net){.g = g, .items = items, .side = g->tiny ? 4 : side, .channels = c->in_channels, .length = g->tiny ? 5 : 77, .width = c->context};
    TRY(graph_create(&n->graph, DTYPE_BF16));
    TRY(nn_params_create(&n->params));
    nn_init(&n->nn, n->graph);
    n->nn.lora = lora;
    n->nn.nlora = lora ? 1 : 0;
    n->nn.modules = modules;
    n->x = graph_input(n->graph, "x", DTYPE_F32, SHAPE(items, n->side, n->side, n->channels));
    n->time = graph_input(n->graph, "t", DTYPE_F32, SHAPE(items));
    n->context = graph_input(n->graph, "context", DTYPE_F32, SHAPE(items, n->length, n->width));
    n->text = sdxl ? graph_input(n->graph, "text", DTYPE_F32, SHAPE(items, g->tiny ? 16 : 1280)) : OP_NONE;
    n->sizes = sdxl ? graph_input(n->graph, "sizes", DTYPE_F32, SHAPE(items * 6)) : OP_NONE;
    size_t mark = nn_push(&n->nn, "unet");
    const UnetAdded added = {n->text, n->sizes, g->tiny ? 8 : 256};
    n->out = unet_forward_added(&n->nn, c, n->x, n->time, n->context, sdxl ? &added : NULL);
    nn_pop(&n->nn, mark);
    return graph_status(n->graph);
}

/* Uniform with the deviation 1 / sqrt(fan in), so that nothing overflows; quick, for billions of values. */
static void fill(NnParam *p)
{
    int64_t count = shape_count(&p->shape), fan = p->shape.ndim ? count / p->shape.dim[0] : 1;
    float scale = sqrtf(3.0f / (float)(fan > 0 ? fan : 1)) * 0x1p-23f;
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++) {
        uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)count;
        x = (x ^ x >> 15) * 0x2c1b3c6du;
        x ^= x >> 13;
        float v = p->shape.ndim == 1 ? 1.0f : (float)((int32_t)(x >> 8) - (1 << 23)) * scale;
        if (p->dtype == DTYPE_F32) {
            ((float *)p->data)[i] = v;
        } else {
            uint32_t u;
            memcpy(&u, &v, 4);
            ((uint16_t *)p->data)[i] = (uint16_t)(u >> 16);
        }
    }
}

int net_fill(Net *n)
{
    for (int i = 0; i < graph_tensor_count(n->graph); i++) {
        const GraphTensor *t = graph_tensor(n->graph, i);
        NnParam *p;
        if (t->kind != TENSOR_PARAM || nn_params_find(n->params, t->name))
            continue;
        TRY(nn_params_add(n->params, t->name, t->meta.dtype, t->meta.shape, &p));
        fill(p);
        p->frozen = 1;
    }
    return 0;
}

int net_plan(Net *n)
{
    TRY(graph_optimize(n->graph, n->g->be));
    TRY(plan_create(&n->plan, n->graph, n->g->be));
    TRY(exec_create(&n->ex, n->plan));
    return nn_params_bind(n->params, n->graph, n->ex);
}

static int write_values(Net *n, OpRef t, uint32_t seed, float low, float high)
{
    int64_t count = shape_count(&graph_meta(n->graph, t)->shape);
    float *v = malloc((size_t)count * sizeof *v);
    if (!v)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        v[i] = low + (high - low) * (float)(seed >> 8) * 0x1p-24f;
    }
    int rc = exec_write_f32(n->ex, t, v, count);
    free(v);
    return rc;
}

int net_write(Net *n, uint32_t seed)
{
    TRY(write_values(n, n->x, seed, -1.7f, 1.7f));
    TRY(write_values(n, n->time, seed + 1, 0, 999));
    if (n->text != OP_NONE) {
        TRY(write_values(n, n->text, seed + 3, -1.7f, 1.7f));
        TRY(write_values(n, n->sizes, seed + 4, 0, 1024));
    }
    return write_values(n, n->context, seed + 2, -1.7f, 1.7f);
}

void net_close(Net *n)
{
    exec_destroy(n->ex);
    plan_destroy(n->plan);
    nn_deinit(&n->nn);
    graph_destroy(n->graph);
    nn_params_destroy(n->params);
}

/* ---- denoising ---- */

enum { RUNS = 30 };

/* Medians of a run of the network alone, and of one with its input written and its output read, as a sampler on the host does. */
static int time_runs(Net *n, double *alone, double *step)
{
    double all[2][RUNS];
    int runs = n->g->tiny ? 1 : RUNS;
    int64_t count = n->items * n->side * n->side * n->channels;
    float *x = calloc((size_t)count, sizeof *x);
    int rc = ERR_NOMEM;
    if (!x) {
        err_set(rc, "out of memory");
        goto done;
    }
    for (int i = n->g->tiny ? 0 : -3; i < runs; i++) {
        double t = gpu_now();
        TRY_GOTO(exec_run(n->ex));
        double u = gpu_now();
        TRY_GOTO(exec_write_f32(n->ex, n->x, x, count));
        TRY_GOTO(exec_run(n->ex));
        TRY_GOTO(exec_read_f32(n->ex, n->out, x, count));
        if (i < 0)
            continue;
        all[0][i] = u - t;
        all[1][i] = gpu_now() - u;
    }
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(x[i])) {
            rc = err_set(ERR_NUMERIC, "the network's result is not finite");
            goto done;
        }
    *alone = gpu_median(all[0], runs);
    *step = gpu_median(all[1], runs);
    rc = 0;
done:
    free(x);
    return rc;
}

static int denoise(const Gpu *g, const char *name, const UnetConfig *c, int64_t items, int64_t side, int sdxl, double target)
{
    Net n = {0};
    char text[96];
    int rc;
    double alone = 0, step = 0, flops;
    if (!gpu_wanted(g, name))
        return 0;
    TRY_GOTO(net_build(&n, g, c, items, side, sdxl, NULL, NULL));
    graph_output(n.graph, n.out, "out");
    TRY_GOTO(net_fill(&n));
    TRY_GOTO(net_plan(&n));
    flops = graph_flops(n.graph);
    TRY_GOTO(net_write(&n, 7));
    TRY_GOTO(time_runs(&n, &alone, &step));
    printf("net\t%s\t%.4g\t%.6g\t%.4g\t1/s\t%g\n", name, alone, flops, 1 / alone, target);
    snprintf(text, sizeof text, "%s, with copies", name);
    printf("net\t%s\t%.4g\t%.6g\t%.4g\t1/s\t0\n", text, step, flops, 1 / step);
    fflush(stdout);
done:
    net_close(&n);
    return rc < 0 ? err_context(rc, "%s", name) : 0;
}

int gpu_nets(const Gpu *g)
{
    UnetConfig c;
    net_sd15(g, &c);
    TRY(denoise(g, "SD 1.5 512x512, guided step", &c, 2, 64, 0, 75));
    net_sdxl(g, &c);
    TRY(denoise(g, "SDXL size 1024x1024, one forward", &c, 1, 128, 1, 30));
    return g->tiny ? 0 : denoise(g, "SDXL size 1024x1024, guided step", &c, 2, 128, 1, 0);
}
