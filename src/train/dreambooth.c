#include "train/dreambooth.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "comm/share.h"
#include "io/file.h"
#include "sweep/sweep.h"

int train_dreambooth_check(const TrainConf *c, const char *path)
{
    const TrainDreamboothConf *b = &c->dreambooth;
    if ((b->prompt[0] || b->class_prompt[0]) && !train_conf_is_diffusion(c))
        return err_set(ERR_RANGE, "%s: dreambooth is for the tasks lora, full and embedding", path);
    if (b->class_images[0] && !b->class_prompt[0])
        return err_set(ERR_RANGE, "%s: dreambooth.class_images needs dreambooth.class_prompt", path);
    if (b->class_prompt[0] && !b->class_images[0] && c->init_random)
        return err_set(ERR_RANGE, "%s: dreambooth: with init_random there is no model that could make class images; set class_images", path);
    return 0;
}

static int class_dir(const TrainConf *c, char **out)
{
    return c->dreambooth.class_images[0] ? str_copy(out, c->dreambooth.class_images) : io_path_join(out, c->output, "class");
}

/* A folder that a sweep made, or one that is not there yet. */
static int is_generated(const char *dir)
{
    char *yaml;
    if (io_path_join(&yaml, dir, "sweep.yaml") < 0)
        return 0;
    int made = io_file_exists(yaml);
    free(yaml);
    return made || !io_file_exists(dir);
}

/* The images of generated classes lie in a folder of their own. */
static int class_path(const TrainConf *c, char **out)
{
    char *dir;
    TRY(class_dir(c, &dir));
    int rc = is_generated(dir) ? io_path_join(out, dir, "png") : str_copy(out, dir);
    free(dir);
    return rc;
}

int train_dreambooth_sets(const TrainConf *c, ConfList *out)
{
    const TrainDreamboothConf *b = &c->dreambooth;
    int n = c->datasets.count;
    TrainDatasetConf *set = calloc((size_t)n + 1, sizeof *set);
    *out = (ConfList){0};
    if (!set)
        return err_set(ERR_NOMEM, "dataset: out of memory");
    memcpy(set, c->datasets.items, (size_t)n * sizeof *set);
    for (int i = 0; b->prompt[0] && i < n; i++)
        set[i].prompt = b->prompt;
    out->items = set;
    out->count = n;
    if (!b->class_prompt[0])
        return 0;
    set[n] = (TrainDatasetConf){.caption = b->class_prompt, .prompt = b->class_prompt, .repeats = 1, .weight = b->weight, .masks = "",
                                .images = "", .extension = "", .trigger = "", .prefix = "", .suffix = "", .separator = ",",
                                .keep_separator = "", .secondary_separator = "", .caption_dropout = -1};
    TRY(class_path(c, &set[n].path));
    out->count += io_file_exists(set[n].path);
    return 0;
}

void train_dreambooth_sets_deinit(const TrainConf *c, ConfList *sets)
{
    TrainDatasetConf *set = sets->items;
    if (set)
        free(set[c->datasets.count].path);
    free(sets->items);
    *sets = (ConfList){0};
}

int train_dreambooth_missing(const TrainConf *c, int *count)
{
    char *dir, *run = NULL;
    *count = 0;
    if (!c->dreambooth.class_prompt[0])
        return 0;
    TRY(class_dir(c, &dir));
    int rc = io_path_join(&run, dir, "run.h5");
    if (rc >= 0 && is_generated(dir) && !io_file_exists(run))
        *count = c->dreambooth.count;
    free(run);
    free(dir);
    return rc;
}

static void add_text(StrBuf *y, const char *key, const char *value)
{
    str_add_format(y, "%s: ", key);
    str_add_json(y, value, strlen(value)); /* which YAML reads too */
    str_add_char(y, '\n');
}

static int sweep_text(const TrainConf *c, const char *dir, int threads, StrBuf *y)
{
    const TrainDreamboothConf *b = &c->dreambooth;
    add_text(y, "model", c->model);
    add_text(y, "output", dir);
    add_text(y, "prompt", b->class_prompt);
    add_text(y, "negative", b->negative);
    add_text(y, "sampler", b->sampler);
    str_add_format(y, "size: [%d, %d]\nsteps: %d\nguidance: %.17g\n", c->resolution, c->resolution, b->steps, b->guidance);
    str_add_format(y, "threads: %d\nbatch: %d\naxes: {seed: {count: %d, start: %lld}}\nsheet: {enabled: false}\n", threads,
                   c->micro_batch < 8 ? c->micro_batch : 8, b->count, (long long)b->seed);
    return str_status(y);
}

static int sweep_conf(const TrainConf *c, const char *dir, int threads, SweepConf *out)
{
    StrBuf y;
    str_init(&y);
    int rc = sweep_text(c, dir, threads, &y);
    if (rc >= 0)
        rc = config_init(&sweep_conf_table, out);
    if (rc >= 0)
        rc = config_load_text(&sweep_conf_table, out, y.data, y.len, "dreambooth");
    str_deinit(&y);
    if (rc >= 0) {
        out->device = c->device;
        out->dtype = c->dtype;
    }
    return rc;
}

/* Every machine must have the same pictures: a folder from another run may hold more. */
static int check_count(const char *dir, int64_t n)
{
    IoNames names;
    TRY(io_dir_list(&names, dir, ".png"));
    int rc = names.count == n ? 0 : err_set(ERR_BUSY, "%s holds %d pictures here, and %lld on rank 0's machine: remove it here", dir, names.count, (long long)n);
    io_names_deinit(&names);
    return rc;
}

/* To machines that do not share the folder: rank 0's pictures, and the sweep.yaml by which they are known as generated. */
static int spread(Comm *comm, const char *dir)
{
    char *png = NULL, *yaml = NULL;
    int sees, all, rc;
    int64_t n = 0;
    TRY(comm_share_test(comm, dir, &sees, &all));
    if (all)
        return 0;
    rc = io_path_join(&png, dir, "png");
    if (rc >= 0)
        rc = io_path_join(&yaml, dir, "sweep.yaml");
    TRY_GOTO(comm_agree(comm, rc));
    TRY_GOTO(comm_share_spread_dir(comm, png, ".png", 0, sees, &n));
    TRY_GOTO(comm_agree(comm, check_count(png, n)));
    TRY_GOTO(comm_share_spread(comm, yaml, sees));
    if (comm->rank == 0)
        log_info("%s is not shared by all ranks: its %lld pictures are on all machines now", dir, (long long)n);
done:
    free(png);
    free(yaml);
    return rc;
}

int train_dreambooth_generate(const TrainConf *c, Comm *comm, int threads)
{
    char *dir = NULL;
    SweepConf sweep = {0};
    SweepReport report;
    int todo = 0, rc;
    if (!c->dreambooth.class_prompt[0])
        return 0;
    rc = class_dir(c, &dir);
    if (rc >= 0)
        todo = comm->rank == 0 && is_generated(dir);
    if (rc >= 0)
        rc = sweep_conf(c, dir, threads, &sweep);
    TRY_GOTO(comm_agree(comm, rc));
    TRY_GOTO(comm_bcast(comm, &todo, sizeof todo, 0)); /* what one rank sees counts: another may already make the folder */
    if (!todo)
        goto done;
    rc = sweep_run(&sweep, &(SweepShard){0, 0}, comm, threads, &report);
    if (rc < 0)
        rc = err_context(rc, "dreambooth.class_images: %s", dir);
    else if (report.lost)
        rc = err_set(ERR_PEER, "%d rank%s died while the class images were made; run again to continue", report.lost, report.lost > 1 ? "s" : "");
    else if (comm->rank == 0 && report.rendered)
        log_info("%lld class images made in %s (%.1f s)", (long long)report.rendered, dir, report.seconds);
    TRY_GOTO(comm_agree(comm, rc));
    rc = spread(comm, dir);
done:
    free(dir);
    config_deinit(&sweep_conf_table, &sweep);
    return rc;
}
