#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/version.h"
#include "io/file.h"
#include "io/h5.h"
#include "train/state.h"

/* Keys that may change between the parts of one run without changing its result (or only the form in which it is saved). */
static const char *const free_keys[] = {"threads:",   "patience:",  "sum_by:", "sum_bucket:",   "output:",    "cache:",      "cache_scope:", "resume:",     "steps:",  "every:",    "keep:",
                                        "milestone:", "background:", "save_dtype:", "save_every:", "max_skips:", "format:", "gradient_checkpointing:",
                                        "memory:", "tensorboard:", "report:"};
/* Blocks of such keys. */
static const char *const free_blocks[] = {"samples:", "metadata:"};

/* Over the values in slot order: a checkpoint whose bytes were damaged is recognised. */
static int digest(const TrainState *s, int norm, char hex[HASH_HEX_SIZE])
{
    uint8_t sum[HASH_SIZE];
    Hash *h;
    TRY(hash_create(&h));
    int rc = hash_update(h, &s->step, sizeof s->step);
    if (rc >= 0)
        rc = hash_update(h, s->param, (size_t)s->n * sizeof(float));
    for (int k = 0; rc >= 0 && k < s->narray; k++)
        rc = hash_update(h, s->array[k].data, (size_t)s->array[k].n * dtype_size(s->array[k].dtype));
    if (rc >= 0 && s->ema)
        rc = hash_update(h, s->ema, (size_t)s->n * sizeof(float));
    if (rc >= 0)
        rc = hash_update(h, s->number, (size_t)s->nnumber * sizeof(double));
    if (rc >= 0)
        rc = hash_update(h, s->loss, (size_t)s->step * sizeof(float));
    if (rc >= 0 && norm)
        rc = hash_update(h, s->norm, (size_t)s->step * sizeof(float));
    if (rc >= 0 && s->nvalid)
        rc = hash_update(h, s->valid_step, (size_t)s->nvalid * sizeof *s->valid_step);
    if (rc >= 0 && s->nvalid)
        rc = hash_update(h, s->valid_loss, (size_t)s->nvalid * sizeof *s->valid_loss);
    if (rc >= 0)
        rc = hash_finish(h, sum);
    hash_destroy(h);
    TRY(rc);
    hash_hex(hex, sum, HASH_SIZE);
    return 0;
}

static int write_validation(IoH5 *f, const TrainState *s)
{
    if (!s->nvalid)
        return 0;
    TRY(io_h5_write(f, "validation/step", DTYPE_I64, 1, &s->nvalid, s->valid_step, NULL));
    return io_h5_write(f, "validation/loss", DTYPE_F32, 1, &s->nvalid, s->valid_loss, NULL);
}

static int read_validation(IoH5 *f, TrainState *s)
{
    IoH5Info info;
    s->nvalid = 0;
    if (!io_h5_exists(f, "validation/step"))
        return 0;
    TRY(io_h5_info(f, "validation/step", &info));
    int64_t n = info.ndim == 1 ? info.dim[0] : 0;
    if (n < 1 || n > (int64_t)1 << 32)
        return err_set(ERR_FORMAT, "validation/step: expected one dimension of at most 2^32");
    int64_t *steps = malloc((size_t)n * sizeof *steps);
    float *losses = malloc((size_t)n * sizeof *losses);
    int rc = steps && losses ? 0 : err_set(ERR_NOMEM, "training state: out of memory");
    if (rc >= 0)
        rc = io_h5_read(f, "validation/step", DTYPE_I64, steps, n);
    if (rc >= 0)
        rc = io_h5_read(f, "validation/loss", DTYPE_F32, losses, n);
    for (int64_t i = 0; rc >= 0 && i < n; i++)
        rc = train_state_push_validation(s, steps[i], losses[i]);
    free(steps);
    free(losses);
    return rc;
}

/* The arrays of a state slot by slot: reads them when `reading`. */
static int pass_array(IoH5 *f, const TrainState *s, const TrainArray *a, int reading)
{
    char name[512];
    for (int i = 0; i < s->count; i++) {
        Shape shape;
        void *data = train_array_slot(a, i);
        if (!train_array_shape(a->cover, &s->slot[i], &shape))
            continue;
        snprintf(name, sizeof name, "%s/%s", a->group, s->slot[i].name);
        if (reading)
            TRY(io_h5_read(f, name, a->dtype, data, shape_count(&shape)));
        else
            TRY(io_h5_write(f, name, a->dtype, shape.ndim, shape.dim, data, NULL));
    }
    return 0;
}

static int pass_values(IoH5 *f, const TrainState *s, const char *group, float *data, int reading)
{
    char name[512];
    for (int i = 0; i < s->count; i++) {
        const TrainSlot *t = &s->slot[i];
        snprintf(name, sizeof name, "%s/%s", group, t->name);
        if (reading)
            TRY(io_h5_read(f, name, DTYPE_F32, data + t->offset, t->count));
        else
            TRY(io_h5_write(f, name, DTYPE_F32, t->shape.ndim, t->shape.dim, data + t->offset, NULL));
    }
    return 0;
}

static int pass_all(IoH5 *f, TrainState *s, int reading)
{
    int64_t numbers = s->nnumber;
    TRY(pass_values(f, s, "param", s->param, reading));
    for (int k = 0; k < s->narray; k++)
        TRY(pass_array(f, s, &s->array[k], reading));
    if (s->ema)
        TRY(pass_values(f, s, "ema", s->ema, reading));
    if (numbers && reading)
        TRY(io_h5_read(f, "numbers", DTYPE_F64, s->number, numbers));
    else if (numbers)
        TRY(io_h5_write(f, "numbers", DTYPE_F64, 1, &numbers, s->number, NULL));
    return 0;
}

static int write_all(IoH5 *f, TrainState *s, const TrainConf *c, const char *config, const TrainOrigin *o)
{
    char hex[HASH_HEX_SIZE];
    TRY(digest(s, 1, hex));
    TRY(io_h5_set_attr_str(f, "/", "format", "atelier checkpoint 1"));
    TRY(io_h5_set_attr_str(f, "/", "version", ATELIER_VERSION));
    TRY(io_h5_set_attr_str(f, "/", "commit", version_commit()));
    TRY(io_h5_set_attr_str(f, "/", "backend", o->backend));
    TRY(io_h5_set_attr_str(f, "/", "model_sha256", o->model));
    TRY(io_h5_set_attr_str(f, "/", "data_sha256", o->data));
    TRY(io_h5_set_attr_i64(f, "/", "step", s->step));
    TRY(io_h5_set_attr_i64(f, "/", "skipped", s->skipped));
    TRY(io_h5_set_attr_i64(f, "/", "seed", (int64_t)c->seed));
    TRY(io_h5_set_attr_str(f, "/", "sha256", hex));
    TRY(io_h5_write_string(f, "config", config));
    TRY(pass_all(f, s, 0));
    TRY(write_validation(f, s));
    TRY(io_h5_write(f, "norm", DTYPE_F32, 1, &s->step, s->norm, NULL));
    return io_h5_write(f, "loss", DTYPE_F32, 1, &s->step, s->loss, NULL);
}

static int checkpoint_dir(char **dir, const TrainConf *c)
{
    return io_path_join(dir, c->output, "checkpoints");
}

/* Step of "step-00000100.h5", -1 for other names. */
static int64_t step_of(const char *name)
{
    long long step = -1;
    int end = 0;
    return sscanf(name, "step-%lld.h5%n", &step, &end) == 1 && end > 0 && !name[end] ? step : -1;
}

/* Later steps than the one just saved belong to a run that was given up (resume=false, or damaged files passed over). */
static void prune(const char *dir, int64_t step, const TrainCheckpointConf *c)
{
    IoNames names = {0};
    int kept = 0;
    if (io_dir_list(&names, dir, ".h5") < 0)
        return;
    for (int i = names.count - 1; i >= 0; i--) {
        char *path;
        int64_t at = step_of(names.items[i]);
        if (at < 0 || (at <= step && (++kept <= c->keep || (c->milestone && at % c->milestone == 0))))
            continue;
        if (io_path_join(&path, dir, names.items[i]) < 0)
            break;
        if (io_file_remove(path) < 0)
            log_warn("%s", err_message());
        free(path);
    }
    io_names_deinit(&names);
}

int train_checkpoint_save(TrainState *s, const TrainConf *c, const char *config, const TrainOrigin *origin)
{
    char *dir = NULL, *path = NULL;
    IoH5 *f = NULL;
    int rc;
    TRY_GOTO(checkpoint_dir(&dir, c));
    TRY_GOTO(io_dir_make(dir));
    TRY_GOTO(str_format(&path, "%s/step-%08lld.h5", dir, (long long)s->step));
    TRY_GOTO(io_h5_create(&f, path));
    TRY_GOTO(write_all(f, s, c, config, origin));
    TRY_GOTO(io_h5_commit(&f));
    prune(dir, s->step, &c->checkpoint);
done:
    if (f)
        io_h5_close(f);
    free(dir);
    free(path);
    return rc;
}

static int next_line(const char **p, const char **line, size_t *n)
{
    if (!**p)
        return 0;
    const char *end = strchr(*p, '\n');
    *line = *p;
    *n = end ? (size_t)(end - *p) : strlen(*p);
    *p += *n + (end != NULL);
    return 1;
}

static int is_free(const TrainConf *c, const char *line, size_t n)
{
    if (train_optim_needs_steps(&c->optimizer) && n >= 6 && !strncmp(line, "steps:", 6))
        return 0; /* the learning rate depends on it */
    while (n && *line == ' ')
        line++, n--;
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++)
        if (n >= strlen(free_keys[i]) && !strncmp(line, free_keys[i], strlen(free_keys[i])))
            return 1;
    return 0;
}

/* The old text as this program would write it: keys that are new since then have their defaults. */
static int renew_config(StrBuf *out, const char *text, const char *path)
{
    TrainConf old;
    int rc = config_init(&train_conf_table, &old);
    if (rc >= 0)
        rc = config_load_text(&train_conf_table, &old, text, strlen(text), path);
    if (rc >= 0)
        rc = train_conf_check(&old, path);
    if (rc >= 0)
        rc = config_dump(&train_conf_table, &old, out);
    train_conf_deinit(&old);
    return rc;
}

/* The text without those blocks. In place. */
static void drop_blocks(char *text)
{
    const char *p = text, *line;
    char *to = text;
    int inside = 0;
    size_t n;
    while (next_line(&p, &line, &n)) {
        if (n && *line != ' ' && *line != '-') {
            inside = 0;
            for (size_t i = 0; i < sizeof free_blocks / sizeof *free_blocks; i++)
                inside |= n >= strlen(free_blocks[i]) && !strncmp(line, free_blocks[i], strlen(free_blocks[i]));
        }
        if (inside)
            continue;
        memmove(to, line, n);
        to += n;
        *to++ = '\n';
    }
    *to = 0;
}

/* Both texts are dumps of the same table, so lines correspond up to the first list of another length. */
static int compare_config(const TrainConf *c, const char *text, char *now, const char *path)
{
    const char *a, *b, *old;
    size_t na, nb;
    StrBuf renewed;
    str_init(&renewed);
    int rc = renew_config(&renewed, text, path);
    if (rc >= 0)
        drop_blocks(renewed.data);
    drop_blocks(now);
    old = rc < 0 ? "" : renewed.data;
    const char *new = now;
    while (rc >= 0 && next_line(&old, &a, &na) & next_line(&new, &b, &nb))
        if ((na != nb || memcmp(a, b, na)) && !(is_free(c, a, na) && is_free(c, b, nb)))
            rc = err_set(ERR_RANGE,
                         "%s was made with '%.*s' but the config says '%.*s'; use another output folder or resume=false", path,
                         (int)na, a, (int)nb, b);
    str_deinit(&renewed);
    return rc;
}

static int compare_hash(IoH5 *f, const char *key, const char *now, const char *what, const char *path)
{
    char *old;
    if (!*now || !io_h5_attr_exists(f, "/", key))
        return 0;
    TRY(io_h5_attr_str(f, "/", key, &old));
    int same = !*old || !strcmp(old, now);
    free(old);
    return same ? 0
                : err_set(ERR_RANGE, "%s was made with other %s under the same name; use another output folder or resume=false", path,
                          what);
}

/* Another instruction set or device: the run goes on, but not to the bytes of an undisturbed one. */
static void compare_backend(IoH5 *f, const TrainOrigin *o, const char *path)
{
    char *then;
    if (io_h5_attr_str(f, "/", "backend", &then) < 0)
        return;
    if (strcmp(then, o->backend) && o->data[0]) /* rank 0 alone knows the data's hash, and says it */
        log_warn("%s was made by %s, this run goes on with %s: its last bits will be other ones", path, then, o->backend);
    free(then);
}

/* ERR_RANGE: a sound checkpoint of another run. Other errors: damaged. */
static int read_one(TrainState *s, const TrainConf *c, const TrainOrigin *o, const char *path)
{
    IoH5 *f = NULL;
    char *config = NULL, *sum = NULL, hex[HASH_HEX_SIZE];
    StrBuf now;
    int64_t step = 0;
    int rc;
    str_init(&now);
    TRY(io_h5_open(&f, path));
    TRY_GOTO(io_h5_read_string(f, "config", &config));
    TRY_GOTO(config_dump(&train_conf_table, c, &now));
    TRY_GOTO(compare_config(c, config, now.data, path));
    TRY_GOTO(compare_hash(f, "model_sha256", o->model, "weights of the model", path));
    TRY_GOTO(compare_hash(f, "data_sha256", o->data, "images or captions", path));
    compare_backend(f, o, path);
    TRY_GOTO(io_h5_attr_i64(f, "/", "step", &step));
    TRY_GOTO(io_h5_attr_i64(f, "/", "skipped", &s->skipped));
    TRY_GOTO(io_h5_attr_str(f, "/", "sha256", &sum));
    TRY_GOTO(pass_all(f, s, 1));
    TRY_GOTO(read_validation(f, s));
    s->step = step > 0 && step < ((int64_t)1 << 40) ? step - 1 : 0;
    TRY_GOTO(train_state_push_step(s, 0, 0));
    TRY_GOTO(io_h5_read(f, "loss", DTYPE_F32, s->loss, step));
    int norm = io_h5_exists(f, "norm"); /* older files have none */
    if (norm)
        TRY_GOTO(io_h5_read(f, "norm", DTYPE_F32, s->norm, step));
    for (int64_t i = 0; !norm && i < step; i++)
        s->norm[i] = NAN;
    TRY_GOTO(digest(s, norm, hex));
    if (strcmp(hex, sum))
        rc = err_set(ERR_FORMAT, "%s: checksum does not match: the file is damaged", path);
done:
    io_h5_close(f);
    free(config);
    free(sum);
    str_deinit(&now);
    return rc;
}

/* The newest of the files that can be read. Values of one that fails half-way are overwritten by the next or never used. */
static int read_newest(TrainState *s, const TrainConf *c, const TrainOrigin *o, const char *dir, const IoNames *names, int *found)
{
    int tried = 0;
    for (int i = names->count - 1; i >= 0 && !*found; i--) {
        char *path;
        int64_t step = step_of(names->items[i]);
        if (step < 0)
            continue;
        TRY(io_path_join(&path, dir, names->items[i]));
        int rc = step > c->steps ? err_set(ERR_RANGE, "%s is past the %d steps of the config; use another output folder or resume=false",
                                           path, c->steps)
                                 : read_one(s, c, o, path);
        free(path);
        if (rc == ERR_RANGE || rc == ERR_NOMEM)
            return rc;
        if (rc < 0)
            log_warn("checkpoint cannot be used: %s; trying the one before", err_message());
        tried++;
        *found = rc >= 0;
    }
    if (tried && !*found)
        return err_set(ERR_FORMAT, "%s: none of the %d checkpoints can be read; resume=false starts over", dir, tried);
    return 0;
}

int train_checkpoint_resume(TrainState *s, const TrainConf *c, const TrainOrigin *origin, int *found)
{
    char *dir = NULL;
    IoNames names = {0};
    int rc;
    *found = 0;
    TRY(checkpoint_dir(&dir, c));
    if (!io_file_is_dir(dir)) {
        free(dir);
        return 0;
    }
    rc = io_dir_list(&names, dir, ".h5");
    if (rc >= 0)
        rc = read_newest(s, c, origin, dir, &names, found);
    free(dir);
    io_names_deinit(&names);
    return rc;
}
