#include <stdlib.h>
#include <string.h>

#include "models/clip_pair.h"
#include "sweep/score.h"

static float dot(const float *a, const float *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return (float)sum;
}

/* Index of the vector of t[n][width] nearest to v. */
static int nearest(const float *v, const float *t, int n, int width)
{
    int best = 0;
    float most = -2;
    for (int i = 0; i < n; i++) {
        float d = dot(v, t + (int64_t)i * width, width);
        if (d > most) {
            most = d;
            best = i;
        }
    }
    return best;
}

static int embed_image(ClipPair *p, const IoImage *img, float *stage, float *out)
{
    int side = clip_pair_side(p);
    IoImage fit = {0};
    if (img->w != side || img->h != side)
        TRY(io_image_cover(&fit, img, side, side, IO_FILTER_LANCZOS));
    io_image_to_hwc(fit.data ? &fit : img, stage);
    io_image_deinit(&fit);
    return clip_pair_images(p, stage, 1, out);
}

/* Distinct prompts of the run in order of appearance: text[], and which[k] for image k. */
static int distinct_prompts(const SweepRunFile *run, const char **text, int *which)
{
    int n = 0;
    for (int64_t k = 0; k < run->meta.n; k++) {
        const char *prompt = sweep_block_text(&run->meta, SWEEP_COL_PROMPT, k);
        int i = 0;
        while (i < n && strcmp(text[i], prompt))
            i++;
        if (i == n)
            text[n++] = prompt;
        which[k] = i;
    }
    return n;
}

static ScoreGroup *find_group(Scores *s, const char *lora)
{
    for (int i = 0; i < s->count; i++)
        if (!strcmp(s->group[i].lora, lora))
            return &s->group[i];
    return NULL;
}

int scores_clip(Scores *s, const char *path, const char *model, Backend *be)
{
    ClipPair *p = NULL;
    SweepRunFile run = {0};
    const char **text = NULL;
    float *vectors = NULL, *stage = NULL, *v = NULL;
    int *which = NULL, rc;
    TRY_GOTO(clip_pair_open(&p, model, be));
    TRY_GOTO(sweep_runfile_open(&run, path));
    int width = clip_pair_width(p), side = clip_pair_side(p);
    text = malloc((size_t)(run.meta.n + 1) * sizeof *text);
    which = malloc((size_t)(run.meta.n + 1) * sizeof *which);
    stage = malloc((size_t)side * (size_t)side * 3 * sizeof *stage);
    v = malloc((size_t)width * sizeof *v);
    rc = text && which && stage && v ? 0 : err_set(ERR_NOMEM, "score: out of memory");
    if (rc < 0)
        goto done;
    s->prompts = distinct_prompts(&run, text, which);
    vectors = malloc((size_t)s->prompts * (size_t)width * sizeof *vectors);
    rc = vectors ? clip_pair_texts(p, text, s->prompts, vectors) : err_set(ERR_NOMEM, "score: out of memory");
    for (int64_t k = 0; rc >= 0 && k < run.meta.n; k++) {
        IoImage img = {0};
        rc = sweep_runfile_image(&run, k, &img);
        if (rc >= 0)
            rc = embed_image(p, &img, stage, v);
        ScoreGroup *g = find_group(s, sweep_block_text(&run.meta, SWEEP_COL_LORA, k));
        if (rc >= 0 && g)
            g->fits += nearest(v, vectors, s->prompts, width) == which[k];
        io_image_deinit(&img);
    }
done:
    sweep_runfile_close(&run);
    clip_pair_close(p);
    free(text);
    free(which);
    free(vectors);
    free(stage);
    free(v);
    return rc;
}

int score_pack(const char *path, const char *model, Backend *be, int among, int64_t *images, int64_t *fits)
{
    ClipPair *p = NULL;
    IoH5 *f = NULL;
    IoH5Info info;
    char **text = NULL;
    float *t = NULL, *v = NULL, *stage = NULL;
    int64_t n = 0;
    int rc;
    *images = *fits = 0;
    TRY_GOTO(clip_pair_open(&p, model, be));
    TRY_GOTO(io_h5_open(&f, path));
    TRY_GOTO(io_h5_info(f, "images", &info));
    TRY_GOTO(io_h5_read_strings(f, "captions", &text, &n));
    if (info.dtype != DTYPE_U8 || info.ndim != 4 || info.dim[3] != 3 || info.dim[0] != n || n < among) {
        rc = err_set(ERR_FORMAT, "%s: expected an image pack of at least %d images", path, among);
        goto done;
    }
    int width = clip_pair_width(p), side = clip_pair_side(p);
    t = malloc((size_t)n * (size_t)width * sizeof *t);
    v = malloc((size_t)among * (size_t)width * sizeof *v);
    stage = malloc((size_t)side * (size_t)side * 3 * sizeof *stage);
    rc = t && v && stage ? clip_pair_texts(p, (const char *const *)text, (int)n, t) : err_set(ERR_NOMEM, "score: out of memory");
    for (int64_t k = 0; rc >= 0 && k < n; k++) {
        IoImage img = {0};
        rc = io_image_init(&img, (int)info.dim[2], (int)info.dim[1], 3);
        if (rc >= 0)
            rc = io_h5_read_rows(f, "images", DTYPE_U8, k, 1, img.data);
        float own[2048];
        if (rc >= 0)
            rc = embed_image(p, &img, stage, own);
        io_image_deinit(&img);
        for (int j = 0; j < among; j++) /* its own caption is number 0; equal captions count for it */
            memcpy(v + (int64_t)j * width, t + (k + j) % n * width, (size_t)width * sizeof *v);
        if (rc >= 0)
            *fits += nearest(own, v, among, width) == 0;
        *images += rc >= 0;
    }
done:
    if (f)
        io_h5_close(f);
    clip_pair_close(p);
    free(text);
    free(t);
    free(v);
    free(stage);
    return rc;
}
