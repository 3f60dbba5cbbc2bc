/* Whole networks of a model folder: denoising step, VAE decode, LoRA training step, and rendering from a cold start.
 *   bench_model MODEL unet|vae|lora|render [f32|bf16] [size=512] [runs=3] [threads=0] [rank=16] [profile]
 * unet, vae, lora time exec_run on random inputs; render goes the way of `atelier sample` and times its model calls. Prints lines of
 * "key value"; peak memory is that of this process. */
#include <math.h>
#include <unistd.h>

#include "base/rng.h"
#include "op_bench.h"
#include "sweep/render.h"
#include "train/diffusion.h"
#include "train/step.h"

typedef struct {
    const char *model, *what;
    Dtype dtype;
    int size, runs, threads, rank, profile;
} Args;

static int64_t status_kib(const char *key)
{
    char line[256];
    long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)))
            sscanf(line + strlen(key), "%lld", &kib);
    fclose(f);
    return kib;
}

/* Seconds since the kernel started this process, to 10 ms: loading the program and its libraries counts. */
static double process_age(void)
{
    char text[1024];
    unsigned long long ticks = 0;
    FILE *f = fopen("/proc/self/stat", "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    char *p = strrchr(text, ')');
    struct timespec t;
    if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ticks) != 1)
        return 0;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static void print_memory(void)
{
    printf("peak_rss_mib %.0f\n", (double)status_kib("VmHWM:") / 1024);
    printf("rss_anon_mib %.0f\n", (double)status_kib("RssAnon:") / 1024);
    printf("rss_file_mib %.0f\n", (double)status_kib("RssFile:") / 1024);
}

static void print_plan(const Plan *p)
{
    printf("arena_mib %.0f\nparam_mib %.0f\n", (double)plan_arena_bytes(p) / 1048576, (double)plan_param_bytes(p) / 1048576);
}

static void print_rate(const char *what, double flops, double seconds, double peak)
{
    printf("%s_seconds %.4f\n%s_gflop %.0f\n%s_gflops %.1f\n%s_share_of_peak %.3f\n", what, seconds, what, flops * 1e-9, what,
           flops / seconds * 1e-9, what, flops / seconds / peak);
}

static void print_profile(const Exec *ex)
{
    double s[OP_COUNT], flops[OP_COUNT], sum = 0;
    int64_t calls[OP_COUNT];
    exec_profile_get(ex, s, calls, flops);
    for (int i = 0; i < OP_COUNT; i++)
        sum += s[i];
    for (int i = 0; i < OP_COUNT; i++)
        if (calls[i])
            printf("# %-22s %5lld calls %8.1f ms %5.1f %%  %7.1f GFLOP/s\n", op_name((OpKind)i), (long long)calls[i], s[i] * 1e3,
                   100 * s[i] / sum, flops[i] / s[i] * 1e-9);
}

/* ---- one graph ---- */

typedef struct {
    Pipeline *pipe;
    Backend *be;
    Graph *g;
    Plan *plan;
    NnParams *params;
    Exec *ex;
} Net;

static void net_close(Net *n)
{
    exec_destroy(n->ex);
    plan_destroy(n->plan);
    nn_params_destroy(n->params);
    graph_destroy(n->g);
    pipeline_close(n->pipe);
    backend_destroy(n->be);
}

static int write_noise(Exec *ex, const Graph *g, OpRef t, float scale)
{
    int64_t n = shape_count(&graph_meta(g, t)->shape);
    float *x = malloc((size_t)n * sizeof *x);
    if (!x)
        return err_set(ERR_NOMEM, "out of memory");
    rng_normal_fill(x, n, rng_key(1, RNG_SAMPLE, (uint64_t)t, 0), 0);
    for (int64_t i = 0; i < n; i++)
        x[i] *= scale;
    int rc = exec_write_f32(ex, t, x, n);
    free(x);
    return rc;
}

static int net_time(const Args *a, Net *n, const char *what, double peak)
{
    double best = 1e30, flops = graph_flops(n->g);
    print_plan(n->plan);
    if (a->runs == 0) /* memory and choice of primitives only */
        return exec_prepare(n->ex);
    for (int i = 0; i <= a->runs; i++) {
        double t = bench_now();
        TRY(exec_run(n->ex));
        t = bench_now() - t;
        if (i == 0)
            printf("%s_first_seconds %.4f\n", what, t);
        else if (t < best)
            best = t;
    }
    print_rate(what, flops, best, peak);
    if (!a->profile)
        return 0;
    exec_profile(n->ex, 1);
    TRY(exec_run(n->ex));
    print_profile(n->ex);
    return 0;
}

static int bench_net(const Args *a, Net *n, double peak)
{
    NnCtx nn;
    OpRef in[3] = {OP_NONE, OP_NONE, OP_NONE}, out;
    int unet = !strcmp(a->what, "unet");
    PipelinePart part = unet ? PIPELINE_UNET : PIPELINE_VAE;
    TRY(graph_create(&n->g, a->dtype));
    nn_init(&nn, n->g);
    const VaeConfig *v = pipeline_vae(n->pipe);
    int side = a->size / vae_factor(v);
    size_t mark = nn_push(&nn, "%s", pipeline_root(part));
    if (unet) {
        const UnetConfig *c = pipeline_unet(n->pipe);
        in[0] = graph_input(n->g, "x", DTYPE_F32, SHAPE(2, side, side, c->in_channels));
        in[1] = graph_input(n->g, "t", DTYPE_F32, SHAPE(2));
        in[2] = graph_input(n->g, "context", DTYPE_F32, SHAPE(2, pipeline_text(n->pipe)->positions, c->context));
        out = unet_forward(&nn, c, in[0], in[1], in[2]);
    } else {
        in[0] = graph_input(n->g, "z", DTYPE_F32, SHAPE(1, side, side, v->latent_channels));
        out = vae_decode(&nn, v, nn_to_compute(&nn, in[0]));
    }
    nn_pop(&nn, mark);
    nn_deinit(&nn);
    graph_output(n->g, out, "out");
    TRY(graph_optimize(n->g, n->be));
    TRY(plan_create(&n->plan, n->g, n->be));
    TRY(nn_params_create(&n->params));
    TRY(pipeline_load(n->pipe, n->params, n->g));
    TRY(exec_create(&n->ex, n->plan));
    TRY(nn_params_bind(n->params, n->g, n->ex));
    for (int i = 0; i < 3; i++)
        if (in[i] != OP_NONE)
            TRY(write_noise(n->ex, n->g, in[i], i == 1 ? 400.0f : 1.0f));
    return net_time(a, n, unet ? "unet" : "vae", peak);
}

/* ---- LoRA step ---- */

typedef struct {
    TrainDiffusionGraph in;
    Lora *lora;
} LoraBench;

static int lora_fill(TrainTask *t, int64_t position)
{
    LoraBench *b = t->impl;
    const float time[1] = {500}, weight[1] = {1};
    (void)position;
    TRY(write_noise(t->now.ex, t->now.g, b->in.x, 1));
    TRY(write_noise(t->now.ex, t->now.g, b->in.target, 1));
    TRY(write_noise(t->now.ex, t->now.g, b->in.context, 1));
    TRY(exec_write_f32(t->now.ex, b->in.time, time, 1));
    return exec_write_f32(t->now.ex, b->in.weight, weight, 1);
}

static int lora_conf(TrainConf *c, const Args *a)
{
    char rank[32];
    const char *set[] = {"task=lora", "batch=1", "micro_batch=1", "steps=100", "caption_dropout=0",
                         "lora.targets=[attn*.to_q, attn*.to_k, attn*.to_v, attn*.to_out.0]", rank};
    snprintf(rank, sizeof rank, "lora.rank=%d", a->rank);
    TRY(config_init(&train_conf_table, c));
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        TRY(config_override(&train_conf_table, c, set[i]));
    c->dtype = a->dtype == DTYPE_BF16;
    return 0;
}

static int lora_time(const Args *a, TrainTask *t, double peak)
{
    TrainStep step;
    TrainState state = {0};
    double best = 1e30, flops = graph_flops(t->now.g);
    int rc;
    TRY_GOTO(train_step_init(&step, t, &state));
    TRY_GOTO(train_step_sync(&step));
    print_plan(t->now.plan);
    printf("trained_values %lld\n", (long long)state.n);
    if (a->runs == 0)
        TRY_GOTO(exec_prepare(t->now.ex));
    for (int i = 0; i <= a->runs && a->runs > 0; i++) {
        double s = bench_now();
        TRY_GOTO(train_step_run(&step));
        state.step++;
        s = bench_now() - s;
        if (i == 0)
            printf("lora_first_seconds %.4f\n", s);
        else if (s < best)
            best = s;
    }
    if (a->runs > 0)
        print_rate("lora", flops, best, peak);
    if (a->profile) {
        exec_profile(t->now.ex, 1);
        TRY_GOTO(exec_run(t->now.ex));
        print_profile(t->now.ex);
    }
done:
    train_step_deinit(&step);
    train_state_deinit(&state);
    return rc;
}

static int bench_lora(const Args *a, Net *n, double peak)
{
    TrainConf conf = {0};
    Comm comm;
    LoraBench b = {0};
    TrainTask t = {.conf = &conf, .comm = &comm, .be = n->be, .fill = lora_fill, .impl = &b};
    int rc, side = a->size / vae_factor(pipeline_vae(n->pipe));
    comm_init_self(&comm);
    TRY_GOTO(lora_conf(&conf, a));
    TRY_GOTO(nn_params_create(&t.params));
    TRY_GOTO(graph_create(&t.now.g, a->dtype));
    TRY_GOTO(train_diffusion_graph(&t, n->pipe, side, side, &b.in, &b.lora));
    TRY_GOTO(train_task_load(&t, "unet", pipeline_files(n->pipe, PIPELINE_UNET), NULL));
    rc = lora_time(a, &t, peak);
done:
    train_task_close(&t);
    lora_destroy(b.lora);
    train_conf_deinit(&conf);
    return rc;
}

/* ---- rendering ---- */

typedef struct {
    double at[64]; /* before model call i */
    int n;
} Ticks;

static int tick(void *ctx, int i, int n)
{
    Ticks *t = ctx;
    (void)n;
    if (i < 64)
        t->at[t->n = i] = bench_now();
    return 0;
}

static int bench_render(const Args *a)
{
    Render *r;
    RenderSetup s;
    RenderConf conf = {.model = a->model, .dtype = a->dtype, .threads = a->threads, .keep = (int64_t)1 << 30};
    RenderItem item = {.prompt = "a lighthouse in a storm", .negative = "blurry", .seed = 1, .guidance = 7.5};
    RenderResult result = {0};
    Ticks t = {0};
    double age = process_age(), opened = bench_now();
    TRY(render_open(&r, &conf));
    render_setup_default(r, &s);
    s.width = s.height = a->size;
    s.sampler.kind = SAMPLER_DDIM;
    s.sampler.steps = a->runs + 1;
    int rc = render_run(r, &s, &item, 1, &result, tick, &t);
    if (rc >= 0 && t.n > 1) {
        double end = bench_now(), best = 1e30;
        for (int i = 1; i < t.n; i++)
            best = fmin(best, t.at[i + 1] - t.at[i]);
        printf("render_start_to_first_call_seconds %.3f\n", t.at[0] - opened + age);
        printf("render_first_call_seconds %.3f\nrender_step_seconds %.4f\n", t.at[1] - t.at[0], best);
        printf("render_start_overhead_seconds %.3f\n", t.at[1] - opened + age - best);
        printf("render_decode_seconds %.3f\n", end - t.at[t.n] - best);
    }
    render_result_deinit(&result);
    render_close(r);
    return rc;
}

/* ---- */

static int number(const char *text, int most)
{
    int n = atoi(text);
    return n < 0 ? 0 : n > most ? most : n;
}

static int parse(Args *a, int argc, char **argv)
{
    *a = (Args){.dtype = DTYPE_F32, .size = 512, .runs = 3, .rank = 16};
    if (argc < 3)
        return err_set(ERR_USAGE, "usage: bench_model MODEL unet|vae|lora|render [f32|bf16] [size=512] [runs=3] [threads=0] [rank=16] [profile]");
    a->model = argv[1];
    a->what = argv[2];
    for (int i = 3; i < argc; i++) {
        const char *s = argv[i], *eq = strchr(s, '=');
        if (!strcmp(s, "bf16") || !strcmp(s, "f32"))
            a->dtype = *s == 'b' ? DTYPE_BF16 : DTYPE_F32;
        else if (!strcmp(s, "profile"))
            a->profile = 1;
        else if (eq && !strncmp(s, "size=", 5))
            a->size = number(eq + 1, 4096);
        else if (eq && !strncmp(s, "runs=", 5))
            a->runs = number(eq + 1, 61);
        else if (eq && !strncmp(s, "threads=", 8))
            a->threads = number(eq + 1, 4096);
        else if (eq && !strncmp(s, "rank=", 5))
            a->rank = number(eq + 1, 4096);
        else
            return err_set(ERR_USAGE, "unknown argument '%s'", s);
    }
    return 0;
}

static int run(const Args *a)
{
    Net n = {0};
    int rc;
    if (!strcmp(a->what, "render"))
        return bench_render(a);
    TRY_GOTO(cpu_backend_create(&n.be, a->threads, CPU_ISA_AVX512));
    double peak = a->runs > 0 ? op_bench_peak(n.be, a->dtype) : 1;
    printf("threads %d\npeak_gflops %.1f\n", n.be->threads, peak * 1e-9);
    TRY_GOTO(pipeline_open(&n.pipe, a->model, NULL));
    if (!strcmp(a->what, "lora"))
        rc = bench_lora(a, &n, peak);
    else if (!strcmp(a->what, "unet") || !strcmp(a->what, "vae"))
        rc = bench_net(a, &n, peak);
    else
        rc = err_set(ERR_USAGE, "unknown part '%s'", a->what);
done:
    net_close(&n);
    return rc;
}

int main(int argc, char **argv)
{
    Args a;
    int rc = parse(&a, argc, argv);
    if (rc >= 0)
        rc = run(&a);
    if (rc < 0) {
        fprintf(stderr, "bench_model: %s\n", err_message());
        return rc == ERR_USAGE ? 2 : 1;
    }
    print_memory();
    return 0;
}
