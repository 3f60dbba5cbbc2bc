#include "sweep/sweep.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/signal.h"
#include "io/file.h"
#include "sweep/output.h"
#include "sweep/sheet.h"
#include "sweep/work.h"

typedef struct {
    const SweepConf *c;
    Comm *comm;
    SweepGrid grid;
    Render *render;
    SweepOutput out;    /* rank 0 */
    char identity[HASH_HEX_SIZE];
    uint8_t *done;      /* [grid.count] */
    SweepWork work;
    RenderSetup largest; /* rank 0: what takes the most memory, and how much */
    RenderPlan plan;
    SweepStore store;
    Progress progress;
    int64_t before, shown; /* finished earlier; estimate of all finished now */
    int64_t rendered;   /* by this rank */
    pthread_t hasher;   /* reads all weights meanwhile: records need their hash */
    int hashing, hash_rc;
    char hash_error[512];
} Run;

static void *hash_main(void *arg)
{
    Run *run = arg;
    const char *hex;
    run->hash_rc = render_model_hash(run->render, &hex);
    if (run->hash_rc < 0)
        snprintf(run->hash_error, sizeof run->hash_error, "%s", err_message());
    return NULL;
}

static int hash_start(Run *run)
{
    if (pthread_create(&run->hasher, NULL, hash_main, run) != 0)
        return err_set(ERR_NOMEM, "cannot start a thread");
    run->hashing = 1;
    return 0;
}

static int hash_wait(Run *run)
{
    if (run->hashing)
        pthread_join(run->hasher, NULL);
    run->hashing = 0;
    return run->hash_rc < 0 ? err_set(run->hash_rc, "%s", run->hash_error) : 0;
}

/* ---- before the work ---- */

/* The batch with the most pixels and network rows. */
static int64_t largest_batch(const Run *run, const SweepWork *w)
{
    int64_t most = 0, at = 0;
    for (int64_t b = 0; b < w->nbatch; b++) {
        SweepItem it;
        sweep_grid_item(&run->grid, w->item[w->batch[b]], &it);
        int64_t rows = (w->batch[b + 1] - w->batch[b]) * (it.guidance > 1 ? 2 : 1);
        int64_t size = rows * (it.width ? (int64_t)it.width * it.height : 1);
        if (size > most) {
            most = size;
            at = b;
        }
    }
    return at;
}

/* Arenas are this rank's own; mapped weights are shared and may be read again from the file. */
static int check_memory(const Run *run, int n)
{
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE);
    size_t arena = 0;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        arena = run->plan.part[i].arena > arena ? run->plan.part[i].arena : arena;
    int ranks = run->comm->local_size > 0 ? run->comm->local_size : 1;
    if ((double)arena * ranks <= have)
        return 0;
    return err_set(ERR_RANGE, "%d x %.0f MiB for the activations do not fit into this machine's %.0f MiB: lower %s, or set dtype=bf16", ranks,
                   (double)arena / 1048576, have / 1048576, n > 1 ? "batch or size" : ranks > 1 ? "size or the number of ranks" : "size");
}

static int check_batch(const Run *run, const SweepWork *w, int64_t b, RenderSetup *s)
{
    SweepItem it;
    sweep_grid_item(&run->grid, w->item[w->batch[b]], &it);
    TRY_CTX(sweep_item_setup(&it, run->c, run->render, s), "image %lld", (long long)it.index);
    for (int i = 0; i < it.nlora; i++)
        if (!io_file_exists(it.lora[i].path))
            return err_set(ERR_NOTFOUND, "LoRA %s is not there", it.lora[i].path);
    return 0;
}

/* Every setting that occurs is checked, and the largest batch planned, before anything is written. */
static int check_settings(Run *run)
{
    SweepWork w;
    int rc;
    TRY_GOTO(sweep_work_init(&w, &run->grid, run->done, run->c->batch));
    for (int64_t b = 0; b < w.nbatch; b++)
        TRY_GOTO(check_batch(run, &w, b, &run->largest));
    int64_t at = largest_batch(run, &w);
    int n = (int)(w.batch[at + 1] - w.batch[at]);
    TRY_GOTO(check_batch(run, &w, at, &run->largest));
    TRY_GOTO(render_plan(run->render, &run->largest, n, &run->plan));
    rc = check_memory(run, n);
done:
    sweep_work_deinit(&w);
    return rc;
}

static void announce(const Run *run)
{
    if (run->work.count)
        log_info("%lld images, %lld of them done, in %lld batches; up to %dx%d, %.1f GFLOP and %d model calls each, %.0f MiB per rank",
                 (long long)run->grid.count, (long long)run->before, (long long)run->work.nbatch, run->largest.width, run->largest.height,
                 run->plan.flops_image * 1e-9, run->plan.model_calls, (double)run->plan.peak / 1048576);
}

static int open_model(Run *run, int threads)
{
    RenderConf conf;
    TRY(sweep_grid_init(&run->grid, run->c));
    TRY(sweep_sheet_check(&run->grid, &run->c->sheet));
    TRY(sweep_identity(run->c, run->identity));
    if (!(run->done = calloc((size_t)run->grid.count + 1, 1)))
        return err_set(ERR_NOMEM, "out of memory");
    sweep_conf_render(run->c, &conf);
    conf.threads = threads;
    conf.local_rank = run->comm->local_rank;
    TRY(render_open(&run->render, &conf));
    if (run->comm->rank == 0)
        TRY(check_settings(run));
    return hash_start(run);
}

/* A record of a finished image whose model or adapters are not those of today. */
static int check_record(void *ctx, const char *json)
{
    Run *run = ctx;
    SweepRecord rec;
    const char *hex;
    int rc;
    TRY_GOTO(hash_wait(run));
    TRY_GOTO(render_model_hash(run->render, &hex));
    TRY_GOTO(sweep_record_parse(&rec, json, "part file"));
    if (strcmp(hex, rec.model_hash) != 0)
        rc = err_set(ERR_BUSY, "%s: the model changed since this run began (hash %.12s then, %.12s now)", rec.model, rec.model_hash, hex);
    for (int i = 0; i < rec.nlora && rc >= 0; i++) {
        rc = render_lora_hash(run->render, rec.lora[i].path, &hex);
        if (rc >= 0 && strcmp(hex, rec.lora[i].hash) != 0)
            rc = err_set(ERR_BUSY, "%s: the LoRA changed since this run began (hash %.12s then, %.12s now)", rec.lora[i].path,
                         rec.lora[i].hash, hex);
    }
    sweep_record_deinit(&rec);
done:
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

static int prepare(Run *run, int threads)
{
    Comm *comm = run->comm;
    int rc = open_model(run, threads);
    int64_t seq = 0;
    TRY(comm_agree(comm, rc));
    if (comm->rank == 0)
        rc = sweep_output_open(&run->out, run->c, run->identity, run->done, run->grid.count, &run->before, check_record, run);
    TRY(comm_agree(comm, rc));
    TRY(share_state(run, &seq));
    rc = sweep_work_init(&run->work, &run->grid, run->done, run->c->batch);
    if (rc >= 0 && comm->rank == 0)
        announce(run);
    if (rc >= 0 && run->work.count)
        rc = sweep_store_init(&run->store, run->c->output, run->identity, comm->rank, seq);
    return comm_agree(comm, rc);
}

/* ---- the work ---- */

typedef struct {
    SweepRow *row;
    RenderItem *item;
    RenderResult *result;
    char (*pixels)[HASH_HEX_SIZE];
} Batch;

static void batch_deinit(Batch *b, int n)
{
    for (int i = 0; b->result && i < n; i++)
        render_result_deinit(&b->result[i]);
    free(b->row);
    free(b->item);
    free(b->result);
    free(b->pixels);
}

static int batch_init(Batch *b, int n)
{
    b->row = calloc((size_t)n, sizeof *b->row);
    b->item = calloc((size_t)n, sizeof *b->item);
    b->result = calloc((size_t)n, sizeof *b->result);
    b->pixels = calloc((size_t)n, sizeof *b->pixels);
    return b->row && b->item && b->result && b->pixels ? 0 : err_set(ERR_NOMEM, "out of memory");
}

static int on_step(void *ctx, int i, int n)
{
    Run *run = ctx;
    int number = signal_stop();
    if (number)
        return err_set(ERR_STOPPED, "stopped by %s", signal_name(number));
    progress_update(&run->progress, run->shown, "step %d/%d  %.2f images/s", i + 1, n, progress_rate(&run->progress, run->shown));
    return 0;
}

static int save_batch(Run *run, Batch *b, int n, const RenderSetup *s, const SweepItem *items, double seconds)
{
    int64_t dim[3];
    TRY(hash_wait(run));
    render_latent_count(run->render, s, dim);
    for (int i = 0; i < n; i++) {
        SweepRow *row = &b->row[i];
        row->result = b->result[i]; /* lent */
        row->seconds = seconds / n;
        row->rank = run->comm->rank;
        memcpy(row->latent, dim, sizeof dim);
        TRY(sweep_pixels_hash(b->pixels[i], &row->result.image));
        TRY(sweep_record_make(&row->rec, run->render, run->c, &items[i], s, b->pixels[i]));
    }
    TRY(sweep_store_add(&run->store, b->row, n, run->c->latents));
    for (int i = 0; i < n && run->c->png; i++)
        TRY(sweep_output_png(run->c->output, &b->row[i].result.image, &b->row[i].rec));
    return 0;
}

static int do_batch(Run *run, int64_t number)
{
    int n = (int)(run->work.batch[number + 1] - run->work.batch[number]), rc;
    Batch b = {0};
    RenderSetup s;
    double start = clock_now();
    SweepItem *items = calloc((size_t)n, sizeof *items);
    if (!items)
        return err_set(ERR_NOMEM, "out of memory");
    TRY_GOTO(batch_init(&b, n));
    for (int i = 0; i < n; i++) {
        TRY_GOTO(sweep_item_load(&run->grid, run->work.item[run->work.batch[number] + i], &items[i]));
        sweep_item_render(&items[i], &b.item[i]);
    }
    TRY_GOTO(sweep_item_setup(&items[0], run->c, run->render, &s));
    TRY_GOTO(render_run(run->render, &s, b.item, n, b.result, on_step, run));
    TRY_GOTO(save_batch(run, &b, n, &s, items, clock_now() - start));
    run->rendered += n;
done:
    batch_deinit(&b, n);
    for (int i = 0; i < n; i++)
        sweep_item_deinit(&items[i]);
    free(items);
    return rc;
}

/* Batches come from one counter, so what it hands out tells about how far all ranks are. */
static int work_loop(Run *run, CommCounter *counter)
{
    for (;;) {
        int64_t number;
        TRY(comm_counter_next(counter, &number));
        if (number < 0)
            return 0;
        int64_t begun = run->work.batch[number] - (run->comm->size - 1) * (int64_t)run->c->batch;
        begun = begun > run->rendered ? begun : run->rendered;
        run->shown = run->before + begun;
        TRY(do_batch(run, number));
        run->shown += run->work.batch[number + 1] - run->work.batch[number];
        progress_update(&run->progress, run->shown, "%.2f images/s", progress_rate(&run->progress, run->shown));
    }
}

static int work_all(Run *run, SweepReport *report)
{
    Comm *comm = run->comm;
    CommCounter *counter;
    if (!run->work.count)
        return 0;
    TRY(comm_counter_create(&counter, comm, run->work.nbatch));
    progress_init(&run->progress, "image", run->before, run->grid.count, comm->rank == 0);
    run->shown = run->before;
    int rc = work_loop(run, counter);
    int64_t sum = run->rendered;
    int sent = comm_sum_i64(comm, &sum, 1);
    if (rc >= 0)
        rc = sent;
    report->rendered = sum;
    if (rc >= 0 && comm->rank == 0 && run->before + sum == run->grid.count)
        progress_update(&run->progress, run->grid.count, "%.2f images/s", progress_rate(&run->progress, run->grid.count));
    progress_break(&run->progress);
    if (rc == ERR_STOPPED)
        rc = err_context(rc, "%lld of %lld images are done; run the same command again to continue", (long long)(run->before + sum),
                         (long long)run->grid.count);
    int agreed = comm_agree(comm, rc);
    int destroyed = comm_counter_destroy(counter);
    return agreed < 0 ? agreed : destroyed;
}

int sweep_run(const SweepConf *c, Comm *comm, int threads, SweepReport *report)
{
    Run run;
    char started[CLOCK_UTC_SIZE];
    double start = clock_now();
    clock_utc_text(started);
    memset(&run, 0, sizeof run);
    memset(report, 0, sizeof *report);
    run.c = c;
    run.comm = comm;
    int rc = prepare(&run, threads);
    if (rc >= 0)
        rc = work_all(&run, report);
    if (rc >= 0) {
        const SweepRunInfo info = {.identity = run.identity,
                                   .backend = render_backend(run.render),
                                   .dtype = dtype_name(sweep_conf_dtype(c)),
                                   .started = started,
                                   .ranks = comm->size};
        rc = comm_agree(comm, comm->rank == 0 ? sweep_output_finish(&run.out, c, &run.grid, &info) : 0);
    }
    report->total = run.grid.count;
    report->before = run.before;
    report->seconds = clock_now() - start;
    if (run.hashing)
        pthread_join(run.hasher, NULL);
    sweep_store_deinit(&run.store);
    sweep_work_deinit(&run.work);
    sweep_output_close(&run.out);
    render_close(run.render);
    sweep_grid_deinit(&run.grid);
    free(run.done);
    return rc;
}
