#include "sweep/sweep.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/signal.h"
#include "comm/device.h"
#include "comm/share.h"
#include "io/file.h"
#include "sweep/dispatch.h"
#include "sweep/output.h"
#include "sweep/sheet.h"
#include "sweep/work.h"
#include "sweep/writer.h"

static const double RETRY = 2; /* seconds between tries on a full disk */

typedef struct {
    const SweepConf *c;
    const SweepShard *shard;
    int64_t total;      /* images of the run or shard */
    char *folder;       /* of the parts' folder */
    Comm *comm;
    SweepGrid grid;
    RenderPool *pool;
    Render *render;     /* of the batch at hand */
    SweepOutput out;    /* rank 0 */
    char identity[HASH_HEX_SIZE];
    uint8_t *done;      /* [grid.count] */
    SweepWork work;
    RenderSetup largest; /* rank 0: what takes the most memory, and how much */
    RenderPlan plan;
    SweepStore store;
    SweepWriter *writer;
    SweepDispatch *dispatch;
    SweepRankStatus status;
    int sees, shared;   /* this rank, all ranks: see the folder of rank 0 */
    int64_t before;     /* finished earlier */
    double rendering;   /* seconds of this rank */
    Render *hashed;     /* a thread reads all its weights meanwhile: records need their hash */
    pthread_t hasher;
    int hashing, hash_rc;
    char hash_error[512];
} Run;

static void *hash_main(void *arg)
{
    Run *run = arg;
    const char *hex;
    run->hash_rc = render_model_hash(run->hashed, &hex);
    if (run->hash_rc < 0)
        snprintf(run->hash_error, sizeof run->hash_error, "%s", err_message());
    return NULL;
}

static int hash_wait(Run *run)
{
    if (run->hashing)
        pthread_join(run->hasher, NULL);
    run->hashing = 0;
    return run->hash_rc < 0 ? err_set(run->hash_rc, "%s", run->hash_error) : 0;
}

static int hash_start(Run *run, Render *r)
{
    if (run->hashed == r)
        return 0;
    TRY(hash_wait(run));
    run->hashed = r;
    if (pthread_create(&run->hasher, NULL, hash_main, run) != 0)
        return err_set(ERR_NOMEM, "cannot start a thread");
    run->hashing = 1;
    return 0;
}

static int take_render(Run *run, const SweepItem *it, Render **out)
{
    return render_pool_get(run->pool, it->model[0] ? it->model : run->c->model, it->vae, out);
}

/* ---- before the work ---- */

/* Arenas are this rank's own; mapped weights are shared and may be read again from the file. */
static int check_memory(const Run *run, int n)
{
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE);
    size_t arena = 0;
    for (int i = 0; i < RENDER_PLAN_PARTS; i++)
        arena = run->plan.part[i].arena > arena ? run->plan.part[i].arena : arena;
    int ranks = run->comm->local_size > 0 ? run->comm->local_size : 1;
    if ((double)arena * ranks <= have)
        return 0;
    return err_set(ERR_RANGE, "%d x %.0f MiB for the activations do not fit into this machine's %.0f MiB: lower %s, or set dtype=bf16", ranks,
                   (double)arena / 1048576, have / 1048576, n > 1 ? "batch or size" : ranks > 1 ? "size or the number of ranks" : "size");
}

static int check_picture(const char *key, const char *path)
{
    int w, h;
    if (!path || !*path)
        return 0;
    TRY_CTX(io_image_size(path, &w, &h), "%s", key);
    return 0;
}

/* Every source and mask is there and its header can be read. */
static int check_pictures(const SweepGrid *g)
{
    TRY(check_picture("source", g->base.source));
    TRY(check_picture("mask", g->base.mask));
    for (int a = 0; a < g->naxes; a++)
        for (int64_t i = 0; g->axis[a].value && i < g->axis[a].count; i++) {
            TRY(check_picture("axes: source", g->axis[a].value[i].source));
            TRY(check_picture("axes: mask", g->axis[a].value[i].mask));
        }
    return 0;
}

static int check_batch(Run *run, int64_t item, RenderSetup *s, Render **r)
{
    SweepItem it;
    sweep_grid_item(&run->grid, item, &it);
    TRY(take_render(run, &it, r));
    TRY_CTX(sweep_item_setup(&it, run->c, *r, s), "image %lld", (long long)it.index);
    for (int i = 0; i < it.nlora; i++)
        if (!io_file_exists(it.lora[i].path))
            return err_set(ERR_NOTFOUND, "LoRA %s is not there", it.lora[i].path);
    return 0;
}

static int plan_largest(Run *run, Render *r, int64_t index, int n)
{
    SweepItem it = {0};
    RenderItem item;
    RenderPrompt prompt;
    int rc;
    TRY_GOTO(sweep_item_load(&run->grid, index, &it));
    sweep_item_render(&it, &item);
    TRY_GOTO(render_prompt_size(r, &run->largest, &item, &prompt));
    rc = render_plan(r, &run->largest, n, &prompt, &run->plan);
done:
    sweep_item_deinit(&it);
    return rc;
}

/* Every setting that occurs is checked, and the batch with the most pixels and network rows planned, before anything is written. */
static int check_settings(Run *run)
{
    SweepWork w;
    RenderSetup s;
    Render *r;
    int64_t most = 0, at = 0, size_at = 1;
    int rc;
    TRY_GOTO(sweep_work_init(&w, &run->grid, run->done));
    TRY_GOTO(check_pictures(&run->grid));
    for (int64_t p = 0, n; p < w.count; p += n) {
        int width, height;
        n = sweep_work_batch(&w, &run->grid, p, w.count, run->c->batch);
        TRY_GOTO(check_batch(run, w.item[p], &s, &r));
        render_setup_size(r, &s, &width, &height);
        int64_t size = n * (s.guided ? 2 : 1) * width * height;
        if (size > most) {
            most = size;
            at = p;
            size_at = n;
        }
    }
    if (w.count) {
        TRY_GOTO(check_batch(run, w.item[at], &run->largest, &r));
        TRY_GOTO(plan_largest(run, r, w.item[at], (int)size_at));
        rc = check_memory(run, (int)size_at);
    }
done:
    sweep_work_deinit(&w);
    return rc;
}

static void announce(const Run *run)
{
    if (run->work.count)
        log_info("%lld images, %lld of them done; up to %dx%d, %.1f GFLOP and %d model calls each, %.0f MiB per rank",
                 (long long)run->total, (long long)run->before, run->largest.width, run->largest.height, run->plan.flops_image * 1e-9,
                 run->plan.model_calls, (double)run->plan.peak / 1048576);
}

static int open_model(Run *run, int threads)
{
    RenderConf conf;
    TRY(sweep_grid_init(&run->grid, run->c));
    TRY(sweep_sheet_check(&run->grid, &run->c->sheet));
    TRY(sweep_identity(run->c, run->identity));
    if (!(run->done = calloc((size_t)run->grid.count + 1, 1)))
        return err_set(ERR_NOMEM, "out of memory");
    run->total = sweep_shard_mark(run->shard, &run->grid, run->done);
    TRY(sweep_shard_folder(&run->folder, run->c->output, run->shard));
    sweep_conf_render(run->c, &conf);
    conf.threads = threads;
    conf.local_rank = run->comm->local_rank;
    TRY(render_pool_create(&run->pool, &conf));
    return run->comm->rank == 0 ? check_settings(run) : 0;
}

static int same_hash(const char *what, const char *name, const char *then, const char *now)
{
    return strcmp(then, now) == 0 ? 0
                                  : err_set(ERR_BUSY, "%s: the %s changed since this run began (hash %.12s then, %.12s now)", name, what, then, now);
}

/* A record of a finished image whose model, adapters or sources are not those of today. */
static int check_record(void *ctx, const char *json)
{
    Run *run = ctx;
    Render *r;
    SweepRecord rec;
    const char *hex;
    int rc;
    TRY_GOTO(sweep_record_parse(&rec, json, "part file"));
    TRY_GOTO(render_pool_get(run->pool, rec.model, rec.vae, &r));
    TRY_GOTO(render_model_hash(r, &hex));
    TRY_GOTO(same_hash("model", rec.model, rec.model_hash, hex));
    for (int i = 0; i < rec.nlora; i++) {
        TRY_GOTO(render_lora_hash(r, rec.lora[i].path, &hex));
        TRY_GOTO(same_hash("LoRA", rec.lora[i].path, rec.lora[i].hash, hex));
    }
    if (*rec.source) {
        TRY_GOTO(render_file_hash(r, rec.source, &hex));
        TRY_GOTO(same_hash("source", rec.source, rec.source_hash, hex));
    }
    if (*rec.mask) {
        TRY_GOTO(render_file_hash(r, rec.mask, &hex));
        TRY_GOTO(same_hash("mask", rec.mask, rec.mask_hash, hex));
    }
    for (int i = 0; i < rec.nembedding; i++) {
        TRY_GOTO(render_file_hash(r, rec.embedding[i].path, &hex));
        TRY_GOTO(same_hash("textual inversion", rec.embedding[i].path, rec.embedding[i].hash, hex));
    }
done:
    sweep_record_deinit(&rec);
    return rc;
}

/* What is finished, from rank 0 to all. */
static int share_state(Run *run, int64_t *seq)
{
    int64_t head[2] = {run->out.parts.seq, run->before};
    TRY(comm_bcast(run->comm, head, sizeof head, 0));
    TRY(comm_bcast(run->comm, run->done, run->grid.count, 0));
    *seq = head[0];
    run->before = head[1];
    return 0;
}

typedef struct {
    const char *folder;
    int64_t seq;
} Place;

static int next_part(void *ctx, char **out)
{
    Place *p = ctx;
    return str_format(out, "%s/parts/r0000-%08lld.h5", p->folder, (long long)p->seq++);
}

/* Parts on machines that do not see rank 0's folder go there. Collective. */
static int gather_parts(Run *run)
{
    Comm *comm = run->comm;
    SweepParts own = {0}, there = {0};
    Place place = {.folder = run->folder};
    int rc = 0, leader = !run->sees && comm->local_rank == 0;
    if (run->shared)
        return 0;
    if (leader)
        rc = sweep_parts_scan(&own, run->folder, 1);
    else if (comm->rank == 0)
        rc = sweep_parts_scan(&there, run->folder, 0);
    if (rc >= 0 && comm->rank == 0) {
        char *dir = NULL;
        place.seq = there.seq;
        rc = io_path_join(&dir, run->folder, "parts");
        if (rc >= 0)
            rc = io_dir_make(dir);
        free(dir);
    }
    rc = comm_agree(comm, rc);
    for (int r = 1; r < comm->size && rc >= 0; r++)
        rc = comm_share_collect(comm, r, own.path, own.count, next_part, &place);
    sweep_parts_deinit(&own);
    sweep_parts_deinit(&there);
    return rc;
}

/* What earlier runs left on machines that do not see rank 0's folder. */
static int gather_earlier(Run *run)
{
    TRY(comm_share_test(run->comm, run->folder, &run->sees, &run->shared));
    if (run->shared)
        return 0;
    if (run->comm->rank == 0)
        log_info("the output folder is not shared by all ranks: their images are gathered by rank 0");
    TRY(gather_parts(run));
    int rc = run->comm->rank ? 0 : sweep_output_reread(&run->out, run->folder, run->identity, run->done, run->grid.count, &run->before);
    return comm_agree(run->comm, rc);
}

static int start_writer(Run *run, int64_t seq)
{
    const SweepWriterConf conf = {
        .output = run->c->output, .png = run->c->png && run->sees, .count = run->grid.count, .queue = run->c->queue, .retry = RETRY};
    TRY(sweep_store_init(&run->store, run->folder, run->identity, run->comm->rank, seq));
    return sweep_writer_start(&run->writer, &run->store, &conf);
}

static int prepare(Run *run, int threads)
{
    Comm *comm = run->comm;
    int rc = open_model(run, threads);
    int64_t seq = 0;
    TRY(comm_agree(comm, rc));
    TRY(comm_device_check(comm, render_pool_backend(run->pool)));
    if (comm->rank == 0)
        rc = sweep_output_open(&run->out, run->c, run->shard, run->identity, run->done, run->grid.count, &run->before, check_record, run);
    TRY(comm_agree(comm, rc));
    TRY(gather_earlier(run));
    if (run->before > run->total) /* run.h5 is there */
        run->before = run->total;
    TRY(share_state(run, &seq));
    rc = sweep_work_init(&run->work, &run->grid, run->done);
    if (rc >= 0 && comm->rank == 0)
        announce(run);
    if (rc >= 0 && run->work.count)
        rc = start_writer(run, seq);
    return comm_agree(comm, rc);
}

/* ---- the work ---- */

static void tell(Run *run, SweepRankState state, int step, int steps)
{
    int full;
    run->status.stored = sweep_writer_stored(run->writer, &full);
    run->status.state = full && state == RANK_WRITING ? RANK_FULL : state;
    run->status.step = step;
    run->status.steps = steps;
    sweep_dispatch_status(run->dispatch, &run->status);
}

static int on_step(void *ctx, int i, int n)
{
    Run *run = ctx;
    int number = signal_stop();
    if (number)
        return err_set(ERR_STOPPED, "stopped by %s", signal_name(number));
    tell(run, RANK_RENDERING, i + 1, n);
    return 0;
}

typedef struct {
    SweepItem *item;
    RenderItem *render;
    RenderResult *result;
    SweepRow *row;
} Batch;

static void batch_deinit(Batch *b, int n)
{
    for (int i = 0; b->result && i < n; i++)
        render_result_deinit(&b->result[i]);
    for (int i = 0; b->item && i < n; i++)
        sweep_item_deinit(&b->item[i]);
    free(b->item);
    free(b->render);
    free(b->result);
    free(b->row);
}

static int batch_init(Batch *b, int n)
{
    b->item = calloc((size_t)n, sizeof *b->item);
    b->render = calloc((size_t)n, sizeof *b->render);
    b->result = calloc((size_t)n, sizeof *b->result);
    b->row = calloc((size_t)n, sizeof *b->row);
    return b->item && b->render && b->result && b->row ? 0 : err_set(ERR_NOMEM, "out of memory");
}

/* The result becomes a row of its own, with its record. */
static int make_row(Run *run, SweepRow *row, RenderResult *result, const SweepItem *it, const RenderSetup *s)
{
    SweepRecord rec;
    StrBuf json;
    char pixels[HASH_HEX_SIZE];
    TRY(sweep_pixels_hash(pixels, &result->image));
    TRY(sweep_record_make(&rec, run->render, run->c, it, s, pixels));
    str_init(&json);
    sweep_record_json(&rec, &json);
    TRY(str_take(&row->record, &json));
    row->index = it->index;
    row->rank = run->comm->rank;
    row->image = result->image;
    memset(&result->image, 0, sizeof result->image);
    if (run->c->latents) {
        render_latent_count(run->render, s, row->latent);
        row->latents = result->latents;
        result->latents = NULL;
    }
    return 0;
}

static int store_batch(Run *run, Batch *b, int n, const RenderSetup *s, double seconds)
{
    int rc = hash_wait(run), made = 0;
    for (; made < n && rc >= 0; made++) {
        b->row[made].seconds = seconds / n;
        rc = make_row(run, &b->row[made], &b->result[made], &b->item[made], s);
    }
    if (rc >= 0) {
        tell(run, RANK_WRITING, 0, 0);
        return sweep_writer_put(run->writer, b->row, n);
    }
    for (int i = 0; i < made; i++)
        sweep_row_deinit(&b->row[i]);
    return rc;
}

static int do_batch(Run *run, int64_t place, int n)
{
    int rc;
    Batch b = {0};
    RenderSetup s;
    double start = clock_now();
    TRY_GOTO(batch_init(&b, n));
    for (int i = 0; i < n; i++) {
        TRY_GOTO(sweep_item_load(&run->grid, run->work.item[place + i], &b.item[i]));
        sweep_item_render(&b.item[i], &b.render[i]);
    }
    run->status.item = place;
    TRY_GOTO(take_render(run, &b.item[0], &run->render));
    TRY_GOTO(hash_start(run, run->render));
    TRY_GOTO(sweep_item_setup(&b.item[0], run->c, run->render, &s));
    TRY_GOTO(render_run(run->render, &s, b.render, n, b.result, on_step, run));
    run->rendering += clock_now() - start;
    rc = store_batch(run, &b, n, &s, clock_now() - start);
done:
    batch_deinit(&b, n);
    return rc;
}

/* The model that comes next in the work order is read into memory meanwhile. */
static int read_ahead(Run *run, int64_t begin, int64_t end)
{
    SweepItem now, next;
    if (end >= run->work.count)
        return 0;
    sweep_grid_item(&run->grid, run->work.item[begin], &now);
    sweep_grid_item(&run->grid, run->work.item[end], &next);
    if (strcmp(now.model, next.model) == 0 && strcmp(now.vae, next.vae) == 0)
        return 0;
    return render_pool_ahead(run->pool, next.model[0] ? next.model : run->c->model, next.vae);
}

static int work_loop(Run *run)
{
    for (;;) {
        int64_t begin, end;
        int got = sweep_dispatch_next(run->dispatch, &begin, &end);
        TRY(got);
        if (got == 1)
            TRY(read_ahead(run, begin, end));
        for (int64_t n; begin < end; begin += n) {
            n = sweep_work_batch(&run->work, &run->grid, begin, end, run->c->batch);
            TRY(do_batch(run, begin, (int)n));
        }
        if (got == 1)
            continue;
        TRY(sweep_writer_flush(run->writer));
        tell(run, RANK_WAITING, 0, 0);
        if (got == 0)
            return 0;
        if (signal_stop())
            return err_set(ERR_STOPPED, "stopped by %s", signal_name(signal_stop()));
        nanosleep(&(struct timespec){0, 30000000}, NULL);
    }
}

/* "prompt ..., lora" of an item, for the display. */
static void describe(void *ctx, int64_t place, char *out, int64_t size)
{
    const Run *run = ctx;
    SweepItem it;
    StrBuf b;
    if (place < 0 || place >= run->work.count)
        return;
    sweep_grid_item(&run->grid, run->work.item[place], &it);
    str_init(&b);
    str_add_format(&b, "#%lld %.40s", (long long)it.index, it.prompt);
    if (it.nlora) {
        str_add(&b, "  ");
        sweep_lora_text(it.lora, it.nlora, &b);
    }
    if (str_status(&b) >= 0)
        snprintf(out, (size_t)size, "%s", b.data);
    for (char *p = out; *p; p++)
        *p = (unsigned char)*p < 32 ? ' ' : *p;
    str_deinit(&b);
}

static int start_dispatch(Run *run)
{
    SweepDispatchConf conf = {.n = run->work.count,
                              .unit = run->c->batch,
                              .patience = run->c->patience,
                              .before = run->before,
                              .total = run->total,
                              .describe = describe,
                              .ctx = run};
    double *cost = malloc(((size_t)conf.n + 1) * sizeof *cost);
    uint8_t *change = malloc((size_t)conf.n + 1);
    int rc = comm_agree(run->comm, cost && change ? 0 : err_set(ERR_NOMEM, "out of memory"));
    if (rc >= 0) {
        sweep_work_costs(&run->work, &run->grid, cost, change);
        conf.cost = cost;
        conf.change = change;
        rc = sweep_dispatch_create(&run->dispatch, run->comm, &conf);
    }
    free(cost);
    free(change);
    return rc;
}

/* How busy the ranks were and what writing cost; sums over the ranks. */
static void log_stats(const Run *run, const SweepWriterStats *w, double wall)
{
    double x[6] = {run->rendering, w->stalled, w->busy, w->paused, (double)w->bytes, wall};
    if (comm_sum_f64(run->comm, x, 6) < 0 || run->comm->rank != 0 || !(x[5] > 0))
        return;
    log_info("rendering took %.1f %% of the ranks' time, waiting for the writer %.2f %%%s; %.1f MB written at %.0f MB/s", 100 * x[0] / x[5],
             100 * x[1] / x[5], x[3] > 0 ? " (the disk was full)" : "", x[4] * 1e-6, x[2] > 0 ? x[4] * 1e-6 / x[2] : 0);
}

static int work_all(Run *run, SweepReport *report)
{
    SweepWriterStats stats;
    double start = clock_now();
    if (!run->work.count)
        return 0;
    TRY(start_dispatch(run));
    int rc = work_loop(run);
    if (rc < 0 && rc != ERR_PEER)
        sweep_dispatch_stop(run->dispatch);
    char *message = NULL;
    if (rc < 0)
        TRY(str_copy(&message, err_message()));
    int wrote = sweep_writer_stop(run->writer, &stats);
    run->writer = NULL;
    if (rc >= 0)
        rc = wrote;
    else
        err_set(rc, "%s", message);
    free(message);
    run->status = (SweepRankStatus){.state = RANK_DONE, .stored = stats.stored};
    sweep_dispatch_status(run->dispatch, &run->status);
    if (rc == ERR_SPACE)
        rc = err_context(signal_stop() ? ERR_STOPPED : rc, "stopped while there was no room");
    const Comm before = *run->comm;
    int end = 0;
    char text[1024];
    snprintf(text, sizeof text, "%s", rc < 0 ? err_message() : "");
    end = sweep_dispatch_end(run->dispatch, &report->rendered, &report->lost);
    if (rc < 0)
        err_set(rc, "%s", text);
    else
        rc = end;
    if (rc < 0 && report->lost && before.rank)
        log_error("%s; run the same command again to continue", err_message());
    if (rc == ERR_STOPPED)
        rc = err_context(rc, "%lld of %lld images are done; run the same command again to continue",
                         (long long)(run->before + report->rendered), (long long)run->total);
    rc = comm_agree(run->comm, rc);
    if (rc >= 0)
        log_stats(run, &stats, clock_now() - start);
    return rc;
}

static void run_deinit(Run *run)
{
    if (run->hashing)
        pthread_join(run->hasher, NULL);
    sweep_writer_stop(run->writer, NULL);
    sweep_dispatch_destroy(run->dispatch);
    sweep_store_deinit(&run->store);
    sweep_work_deinit(&run->work);
    sweep_output_close(&run->out);
    render_pool_destroy(run->pool);
    sweep_grid_deinit(&run->grid);
    free(run->folder);
    free(run->done);
}

int sweep_run(const SweepConf *c, const SweepShard *shard, Comm *comm, int threads, SweepReport *report)
{
    Run run;
    char started[CLOCK_UTC_SIZE];
    double start = clock_now();
    clock_utc_text(started);
    memset(&run, 0, sizeof run);
    memset(report, 0, sizeof *report);
    run.c = c;
    run.shard = shard;
    run.sees = run.shared = 1;
    run.comm = comm;
    int ranks = comm->size;
    int rc = prepare(&run, threads);
    int worked = rc >= 0; /* on all ranks or on none */
    if (worked)
        rc = work_all(&run, report);
    if (worked && !run.shared && run.work.count && !report->lost) {
        char why[1024];
        snprintf(why, sizeof why, "%s", rc < 0 ? err_message() : "");
        int gathered = gather_parts(&run);
        rc = rc < 0 ? err_set(rc, "%s", why) : gathered;
    }
    if (rc >= 0 && !shard->count && !(report->lost && comm->rank)) {
        Render *r = run.render;
        if (!r && comm->rank == 0)
            rc = render_pool_get(run.pool, c->model, c->vae, &r);
        const SweepRunInfo info = {.identity = run.identity,
                                   .backend = r ? render_backend(r) : "",
                                   .dtype = dtype_name(sweep_conf_dtype(c)),
                                   .started = started,
                                   .threads = threads,
                                   .ranks = ranks};
        run.out.late_copy = run.shared && sweep_output_copies_late(c, comm);
        if (rc >= 0 && comm->rank == 0)
            rc = sweep_output_finish(&run.out, c, &run.grid, &info);
        rc = comm_agree(comm, rc);
        if (rc >= 0)
            rc = sweep_output_copy(&run.out, c, comm);
    }
    report->total = run.total;
    report->before = run.before;
    report->seconds = clock_now() - start;
    run_deinit(&run);
    return rc;
}
