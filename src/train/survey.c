#include "train/survey.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "models/model_json.h"
#include "text/clip_bpe.h"
#include "train/dataset_impl.h"

enum { TOKENS_USUAL = 75 };

static int look_at_all(TrainDataset *d, TrainSurveyItem *s)
{
    int bad = 0;
#pragma omp parallel for schedule(dynamic, 8) reduction(| : bad)
    for (int64_t i = 0; i < d->count; i++)
        bad |= train_survey_look(d, i, &s[i]) < 0;
    return bad ? err_set(ERR_NOMEM, "dataset: out of memory") : 0;
}

static void list_sets(const TrainDataset *d, StrBuf *out)
{
    str_add_format(out, "%10s %10s %12s  dataset\n", "images", "repeats", "in an epoch");
    for (int i = 0; i < d->nsubset; i++) {
        const TrainSubset *s = &d->subset[i];
        str_add_format(out, "%10lld %10d %12lld  %s%s\n", (long long)s->count, s->repeats, (long long)s->entries, s->path,
                       s->conf->is_reg ? " (regularisation)" : "");
    }
    str_add_format(out, "%10lld %10s %12lld  in all\n\n", (long long)d->count, "", (long long)d->nentry);
}

/* ---- sizes ---- */

typedef struct {
    TrainSize size;
    int64_t images, entries;
} Count;

static int by_size(const void *a, const void *b)
{
    return train_size_compare(&((const Count *)a)->size, &((const Count *)b)->size);
}

/* Sets the items' sizes; those that no bucket takes become unreadable. */
static int choose(TrainDataset *d, TrainSurveyItem *s)
{
    TrainBuckets b;
    if (!d->conf->bucket.enabled)
        return 0;
    TRY(train_buckets_init(&b, &d->conf->bucket, d->conf->resolution));
    int rc = 0;
    for (int64_t i = 0; rc >= 0 && i < d->count; i++) {
        TrainItem *it = &d->items[i];
        it->bucket = 0;
        if (!s[i].readable || train_buckets_select(&b, it->image.w, it->image.h, &it->size, &it->resized) >= 0)
            continue;
        s[i].readable = 0;
        rc = str_format(&s[i].why, "%s: %s", it->path, err_message());
    }
    train_buckets_deinit(&b);
    return rc;
}

static int list_sizes(const TrainDataset *d, const TrainSurveyItem *s, StrBuf *out)
{
    Count *c = calloc((size_t)d->count + 1, sizeof *c);
    int64_t n = 0, big = 0, *shown = calloc((size_t)d->count, sizeof *shown);
    if (!c || !shown) {
        free(c);
        free(shown);
        return err_set(ERR_NOMEM, "dataset: out of memory");
    }
    for (int64_t e = 0; e < d->nentry; e++)
        shown[d->entries[e]]++;
    for (int64_t i = 0; i < d->count; i++) {
        const TrainItem *it = &d->items[i];
        if (!s[i].readable)
            continue;
        TrainSize via = train_dataset_resized(it, it->image.w, it->image.h);
        big += via.w > 2 * it->image.w;
        c[n++] = (Count){it->size, 1, shown[i]};
    }
    qsort(c, (size_t)n, sizeof *c, by_size);
    int64_t k = 0;
    for (int64_t i = 1; i < n; i++)
        if (by_size(&c[k], &c[i]))
            c[++k] = c[i];
        else
            c[k].images++, c[k].entries += c[i].entries;
    str_add_format(out, "%10s %10s %12s  %s\n", "images", "", "in an epoch", d->conf->bucket.enabled ? "bucket" : "size");
    for (int64_t i = 0; n && i <= k; i++)
        str_add_format(out, "%10lld %10s %12lld  %d x %d\n", (long long)c[i].images, "", (long long)c[i].entries, c[i].size.w, c[i].size.h);
    if (big)
        str_add_format(out, "%lld images are enlarged more than twofold\n", (long long)big);
    str_add_char(out, '\n');
    free(c);
    free(shown);
    return 0;
}

/* ---- captions ---- */

static int by_int(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

static int open_tokenizer(const TrainConf *c, ClipBpe **out)
{
    char *dir;
    TRY(io_path_join(&dir, c->model, "tokenizer"));
    int rc = io_file_is_dir(dir) ? clip_bpe_open(out, dir) : 0;
    free(dir);
    return rc;
}

/* Tokens of a caption that the text encoder reads, without the marks of beginning and end. */
static int read_most(const TrainConf *c, int *most)
{
    char *path;
    ModelJson *j;
    *most = TOKENS_USUAL;
    TRY(io_path_join(&path, c->model, "text_encoder/config.json"));
    int rc = io_file_exists(path) ? model_json_open(&j, path) : 1;
    free(path);
    if (rc)
        return rc < 0 ? rc : 0;
    rc = model_json_int(j, "max_position_embeddings", TOKENS_USUAL + 2, 3, 1000000, most);
    *most -= rc < 0 ? 0 : 2;
    model_json_close(j);
    return rc;
}

static int count_tokens(const TrainDataset *d, const ClipBpe *bpe, int *length, int show, StrBuf *out)
{
    StrBuf text, lines;
    int64_t over = 0;
    int most;
    str_init(&text);
    str_init(&lines);
    int rc = read_most(d->conf, &most);
    for (int64_t i = 0; rc >= 0 && i < d->count; i++) {
        rc = train_dataset_caption(d, i, d->conf->seed, -1 - i, &text);
        if (rc >= 0)
            rc = clip_bpe_encode(bpe, text.data, NULL, 0, &length[i]);
        if (rc >= 0 && length[i] > most && over++ < show)
            str_add_format(&lines, "  %s: %d tokens\n", d->items[i].path, length[i]);
    }
    if (over > show)
        str_add_format(&lines, "  ... and %lld more\n", (long long)(over - show));
    if (rc >= 0) {
        qsort(length, (size_t)d->count, sizeof *length, by_int);
        str_add_format(out, "tokens          %d to %d, half of them up to %d; over %d, where the rest is cut off: %lld\n%s", length[0],
                       length[d->count - 1], length[(d->count - 1) / 2], most, (long long)over, lines.data);
    }
    str_deinit(&text);
    str_deinit(&lines);
    return rc;
}

static int list_captions(const TrainDataset *d, int show, StrBuf *out)
{
    int64_t named = 0, varies = 0, empty = 0;
    ClipBpe *bpe = NULL;
    for (int64_t i = 0; i < d->count; i++) {
        named += d->items[i].named;
        varies += train_dataset_caption_varies(d, i);
        empty += !d->items[i].caption[0];
    }
    str_add_format(out, "captions        %lld of the images' own, %lld from settings, folders or file names; %lld empty; %lld vary\n",
                   (long long)(d->count - named), (long long)named, (long long)empty, (long long)varies);
    TRY(open_tokenizer(d->conf, &bpe));
    if (!bpe) {
        str_add(out, "tokens          not counted: no model with a tokenizer\n");
        return 0;
    }
    int *length = malloc((size_t)d->count * sizeof *length);
    int rc = length ? count_tokens(d, bpe, length, show, out) : err_set(ERR_NOMEM, "dataset: out of memory");
    free(length);
    clip_bpe_close(bpe);
    return rc;
}

static void list_bad(const TrainDataset *d, const TrainSurveyItem *s, int show, StrBuf *out, int64_t *bad)
{
    *bad = 0;
    for (int64_t i = 0; i < d->count; i++)
        *bad += !s[i].readable;
    str_add_format(out, "unreadable      %lld\n", (long long)*bad);
    int told = 0;
    for (int64_t i = 0; i < d->count && told < show; i++)
        if (!s[i].readable) {
            str_add_format(out, "  %s\n", s[i].why);
            told++;
        }
    if (*bad > show)
        str_add_format(out, "  ... and %lld more\n", (long long)(*bad - show));
}

int train_survey(const TrainConf *c, const TrainSurveyOptions *o, StrBuf *out, int64_t *bad)
{
    TrainDataset *d = NULL;
    TrainSurveyItem *s = NULL;
    int rc;
    TRY(train_dataset_open(&d, c));
    s = calloc((size_t)d->count, sizeof *s);
    TRY_GOTO(s ? 0 : err_set(ERR_NOMEM, "dataset: out of memory"));
    TRY_GOTO(look_at_all(d, s));
    TRY_GOTO(choose(d, s));
    list_sets(d, out);
    TRY_GOTO(list_sizes(d, s, out));
    TRY_GOTO(list_captions(d, o->show, out));
    TRY_GOTO(train_survey_duplicates(d, s, o->show, out));
    list_bad(d, s, o->show, out, bad);
    if (o->sheet)
        TRY_GOTO(train_survey_sheet(d, s, o));
    rc = str_status(out);
done:
    for (int64_t i = 0; s && i < d->count; i++)
        free(s[i].why);
    free(s);
    train_dataset_close(d);
    return rc;
}
