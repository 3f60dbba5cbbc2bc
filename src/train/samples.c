#include "train/samples.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/file.h"
#include "io/png.h"
#include "sweep/render.h"
#include "train/embedding.h"

enum { SHEET_COLUMNS = 24, SHEET_CELL = 128 };

/* ---- prompts ---- */

static int set_option(TrainSample *s, char key, char *value, const char *line)
{
    char *end = value;
    size_t n = strlen(value);
    while (n && value[n - 1] == ' ')
        value[--n] = 0;
    double x = key == 'n' ? 0 : strtod(value, &end);
    if (key != 'n' && (!n || *end))
        return err_set(ERR_FORMAT, "samples.prompts: '%s': --%c expects a number, got '%s'", line, key, value);
    switch (key) {
    case 'n':
        free(s->negative);
        s->negative = NULL;
        return str_copy(&s->negative, value);
    case 'w': s->width = (int)x; break;
    case 'h': s->height = (int)x; break;
    case 'd': s->seed = (int64_t)x; break;
    case 'l': s->guidance = x; break;
    default: s->steps = (int)x; break;
    }
    if (s->steps < 1 || s->steps > 1000 || s->width < 8 || s->width > 16384 || s->height < 8 || s->height > 16384 || s->seed < 0 ||
        !(s->guidance >= 0 && s->guidance <= 1000))
        return err_set(ERR_RANGE, "samples.prompts: '%s': --%c %s is out of range", line, key, value);
    return 0;
}

int train_sample_parse(TrainSample *s, const TrainConf *c, const char *line)
{
    char *text, *next;
    const TrainSamplesConf *d = &c->samples;
    *s = (TrainSample){.width = c->resolution, .height = c->resolution, .steps = d->steps, .guidance = d->guidance, .seed = d->seed};
    TRY(str_copy(&s->negative, d->negative));
    TRY(str_copy(&text, line));
    int rc = 0;
    next = strstr(text, " --");
    if (next)
        *next = 0;
    for (char *at = next; rc >= 0 && at; at = next) {
        char *option = at + 3;
        next = strstr(option, " --");
        if (next)
            *next = 0;
        if (!option[0] || !strchr("whdlsn", option[0]) || option[1] != ' ')
            rc = err_set(ERR_FORMAT, "samples.prompts: '%s': unknown option --%s; expected --w, --h, --d, --l, --s or --n", line, option);
        else
            rc = set_option(s, option[0], option + 2, line);
    }
    if (rc >= 0)
        rc = str_copy(&s->text, text);
    free(text);
    return rc;
}

void train_sample_deinit(TrainSample *s)
{
    free(s->text);
    free(s->negative);
    *s = (TrainSample){0};
}

/* ---- rendering ---- */

static int make_setup(const TrainConf *c, const TrainSample *p, const Render *r, int adapter, RenderSetup *s)
{
    render_setup_default(r, s);
    s->width = p->width;
    s->height = p->height;
    s->guided = p->guidance > 1;
    s->sampler.steps = p->steps;
    s->sampler.eta = -1;
    if (c->samples.sampler[0])
        TRY(sampler_conf_set_kind(&s->sampler, c->samples.sampler));
    render_setup_tile(r, s, -1);
    s->nlora = adapter;
    s->lora[0] = (RenderLora){RENDER_LIVE, 1};
    return render_setup_check(r, s);
}

static int open_live(Render **r, TrainTask *t, Backend *be)
{
    const TrainConf *c = t->conf;
    const NnParam *word = c->embedding.token[0] && t->params ? nn_params_find(t->params, TRAIN_EMBEDDING_PARAM) : NULL;
    RenderConf conf = {.model = c->model, .dtype = train_conf_dtype(c), .device = c->device, .keep = (int64_t)1 << 30};
    RenderLive live = {.be = be, .weights = c->task == TRAIN_FULL ? t->params : NULL, .adapter = t->adapter,
                       .word = word ? c->embedding.token : NULL, .vectors = word ? word->data : NULL, .nvectors = c->embedding.vectors};
    return render_open_live(r, &conf, &live);
}

int train_samples_check(const TrainConf *c)
{
    for (int i = 0; i < c->samples.prompts.count; i++) {
        TrainSample p;
        SamplerConf sampler;
        int rc = train_sample_parse(&p, c, c->samples.prompts.items[i]);
        sampler_conf_default(&sampler);
        if (rc >= 0 && c->samples.sampler[0])
            rc = sampler_conf_set_kind(&sampler, c->samples.sampler);
        if (rc >= 0 && (p.width % 8 || p.height % 8))
            rc = err_set(ERR_RANGE, "'%s': %dx%d: expected multiples of 8", p.text, p.width, p.height);
        train_sample_deinit(&p);
        TRY_CTX(rc, "samples");
    }
    return 0;
}

/* The PNG of one prompt. */
static int render_one(TrainTask *t, Render *r, int i, uint8_t **png, size_t *size)
{
    TrainSample p;
    RenderSetup s;
    RenderResult result = {0};
    int rc = train_sample_parse(&p, t->conf, t->conf->samples.prompts.items[i]);
    if (rc >= 0)
        rc = make_setup(t->conf, &p, r, t->adapter != NULL, &s);
    if (rc >= 0) {
        RenderItem item = {.prompt = p.text, .negative = p.negative, .seed = (uint64_t)p.seed, .guidance = p.guidance};
        rc = render_run(r, &s, &item, 1, &result, NULL, NULL);
    }
    if (rc >= 0) {
        const IoPngText text = {"prompt", t->conf->samples.prompts.items[i]};
        rc = io_png_encode(png, size, &result.image, &text, 1, -1);
    }
    render_result_deinit(&result);
    train_sample_deinit(&p);
    return rc;
}

/* What a rank hands in: for each of its prompts int64 index, int64 size, bytes. Images that cannot be made (not finite) are left out. */
static int render_mine(TrainTask *t, StrBuf *out)
{
    Render *r = NULL;
    int rc = 0, n = t->conf->samples.prompts.count;
    for (int i = t->comm->rank; rc >= 0 && i < n; i += t->comm->size) {
        uint8_t *png = NULL;
        size_t size = 0;
        if (!r)
            rc = open_live(&r, t, t->be);
        if (rc >= 0)
            rc = render_one(t, r, i, &png, &size);
        if (rc == ERR_NUMERIC) {
            log_warn("sample %d: %s", i, err_message());
            rc = 0;
        } else if (rc >= 0) {
            const int64_t head[2] = {i, (int64_t)size};
            str_add_bytes(out, head, sizeof head);
            str_add_bytes(out, png, size);
        }
        free(png);
    }
    render_close(r);
    return rc < 0 ? rc : str_status(out);
}

/* ---- files ---- */

static int folder(const TrainConf *c, char **out)
{
    return io_path_join(out, c->output, "samples");
}

static int parse_name(const char *name, int64_t *step, int *index)
{
    long long s;
    int i, end = 0;
    if (sscanf(name, "step-%lld-%d.png%n", &s, &i, &end) != 2 || !end || name[end])
        return 0;
    *step = s;
    *index = i;
    return 1;
}

/* Files in the order of steps. path[n]: free_list, also after an error. */
static int list(const TrainConf *c, int64_t last_step, char ***path, int64_t **step, int **index, int *n)
{
    char *dir;
    IoNames names = {0};
    *path = NULL, *step = NULL, *index = NULL, *n = 0;
    TRY(folder(c, &dir));
    int rc = io_file_is_dir(dir) ? io_dir_list(&names, dir, ".png") : 0;
    if (rc >= 0) {
        *path = calloc((size_t)names.count + 1, sizeof **path);
        *step = calloc((size_t)names.count + 1, sizeof **step);
        *index = calloc((size_t)names.count + 1, sizeof **index);
        if (!*path || !*step || !*index)
            rc = err_set(ERR_NOMEM, "samples: out of memory");
    }
    for (int i = 0; rc >= 0 && i < names.count; i++) {
        int64_t s;
        int k;
        if (!parse_name(names.items[i], &s, &k) || s > last_step || k < 0 || k >= c->samples.prompts.count)
            continue;
        (*step)[*n] = s;
        (*index)[*n] = k;
        rc = io_path_join(&(*path)[*n], dir, names.items[i]);
        *n += rc >= 0;
    }
    io_names_deinit(&names);
    free(dir);
    return rc;
}

static void free_list(char **path, int64_t *step, int *index, int n)
{
    for (int i = 0; i < n; i++)
        free(path[i]);
    free(path);
    free(step);
    free(index);
}

int train_samples_forget(const TrainConf *c, int64_t after)
{
    char **path;
    int64_t *step;
    int *index, n;
    int rc = list(c, INT64_MAX, &path, &step, &index, &n);
    for (int i = 0; rc >= 0 && i < n; i++)
        if (step[i] > after)
            rc = io_file_remove(path[i]);
    free_list(path, step, index, n);
    return rc;
}

int train_samples_due(const TrainConf *c, int64_t step)
{
    char *dir, *file;
    int n = c->samples.prompts.count, there = 0;
    if (!n || (step % c->samples.every && step != c->steps) || folder(c, &dir) < 0)
        return 0;
    for (int i = 0; i < n; i++) {
        if (str_format(&file, "%s/step-%08lld-%02d.png", dir, (long long)step, i) < 0)
            break;
        there += io_file_exists(file);
        free(file);
    }
    free(dir);
    return there < n;
}

/* Which of the steps get a column: the first, the last, and evenly between. steps[n] are sorted and distinct. */
static int choose(int64_t *steps, int n)
{
    if (n <= SHEET_COLUMNS)
        return n;
    for (int i = 0; i < SHEET_COLUMNS; i++)
        steps[i] = steps[(int64_t)i * (n - 1) / (SHEET_COLUMNS - 1)];
    return SHEET_COLUMNS;
}

static int write_grid(const TrainConf *c, char **path, const int64_t *step, const int *index, int n, const int64_t *cols, int ncol)
{
    int rows = c->samples.prompts.count, rc = 0;
    IoImage *tile = calloc((size_t)(rows * ncol) + 1, sizeof *tile), sheet = {0};
    char (*label)[32] = calloc((size_t)ncol + 1, sizeof *label), *file = NULL;
    const char **heads = calloc((size_t)ncol + 1, sizeof *heads);
    if (!tile || !label || !heads)
        rc = err_set(ERR_NOMEM, "samples: out of memory");
    for (int k = 0; rc >= 0 && k < ncol; k++) {
        snprintf(label[k], sizeof label[k], "step %lld", (long long)cols[k]);
        heads[k] = label[k];
        for (int i = 0; rc >= 0 && i < n; i++)
            if (step[i] == cols[k])
                rc = io_image_load(&tile[index[i] * ncol + k], path[i]);
    }
    if (rc >= 0) {
        const IoSheet s = {.rows = rows, .cols = ncol, .tile = tile, .cell_w = SHEET_CELL, .cell_h = SHEET_CELL, .col_label = heads,
                           .row_label = (const char *const *)c->samples.prompts.items};
        rc = io_sheet_build(&sheet, &s);
    }
    if (rc >= 0)
        rc = io_path_join(&file, c->output, "samples.png");
    if (rc >= 0)
        rc = io_png_write(file, &sheet, NULL, 0, -1);
    for (int i = 0; tile && i < rows * ncol; i++)
        io_image_deinit(&tile[i]);
    io_image_deinit(&sheet);
    free(tile);
    free(label);
    free(heads);
    free(file);
    return rc;
}

static int write_sheet(const TrainConf *c, int64_t last)
{
    char **path;
    int64_t *step;
    int *index, n, ncol = 0;
    int rc = list(c, last, &path, &step, &index, &n);
    int64_t *cols = rc < 0 ? NULL : calloc((size_t)n + 1, sizeof *cols);
    for (int i = 0; cols && i < n; i++) /* names are sorted by step */
        if (!ncol || cols[ncol - 1] != step[i])
            cols[ncol++] = step[i];
    if (rc >= 0 && ncol) {
        ncol = choose(cols, ncol);
        rc = write_grid(c, path, step, index, n, cols, ncol);
    }
    free_list(path, step, index, n);
    free(cols);
    return rc;
}

static int write_all(const TrainConf *c, int64_t step, const char *all, int64_t bytes, TrainSampleFn fn, void *ctx)
{
    char *dir, *file;
    TRY(folder(c, &dir));
    int rc = io_dir_make(dir);
    for (int64_t at = 0; rc >= 0 && at < bytes;) {
        int64_t head[2];
        IoImage img = {0};
        memcpy(head, all + at, sizeof head);
        const uint8_t *png = (const uint8_t *)all + at + sizeof head;
        at += (int64_t)sizeof head + head[1];
        rc = str_format(&file, "%s/step-%08lld-%02lld.png", dir, (long long)step, (long long)head[0]);
        if (rc < 0)
            break;
        rc = io_file_write(file, png, (size_t)head[1]);
        if (rc >= 0 && fn && io_image_decode(&img, png, (size_t)head[1], file) >= 0)
            fn(ctx, (int)head[0], png, (size_t)head[1], img.w, img.h);
        io_image_deinit(&img);
        free(file);
    }
    free(dir);
    return rc < 0 ? rc : write_sheet(c, step);
}

int train_samples_run(TrainTask *t, int64_t step, TrainSampleFn fn, void *ctx)
{
    StrBuf mine;
    void *all = NULL;
    int64_t *sizes = calloc((size_t)t->comm->size, sizeof *sizes), bytes = 0;
    str_init(&mine);
    int rc = sizes ? render_mine(t, &mine) : err_set(ERR_NOMEM, "samples: out of memory");
    rc = comm_agree(t->comm, rc);
    if (rc >= 0)
        rc = comm_gather_any(t->comm, mine.data, (int64_t)mine.len, &all, sizes, 0);
    for (int r = 0; rc >= 0 && r < t->comm->size; r++)
        bytes += sizes[r];
    if (rc >= 0 && t->comm->rank == 0 && write_all(t->conf, step, all, bytes, fn, ctx) < 0)
        log_warn("samples of step %lld: %s; training goes on", (long long)step, err_message());
    free(all);
    free(sizes);
    str_deinit(&mine);
    return rc;
}
