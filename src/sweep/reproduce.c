#include "sweep/reproduce.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/png.h"

static int is_png(const char *path, int *yes)
{
    unsigned char head[8] = {0};
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_errno("%s", path);
    size_t n = fread(head, 1, sizeof head, f);
    fclose(f);
    *yes = n == sizeof head && memcmp(head, "\x89PNG\r\n\x1a\n", 8) == 0;
    return 0;
}

static int open_png(ReproduceSource *s, const char *path)
{
    IoPngText *text;
    int n;
    TRY(io_png_read_text(&text, &n, path));
    const char *json = io_png_text_find(text, n, "atelier");
    int rc = json ? str_copy(&s->json, json) : err_set(ERR_NOTFOUND, "%s: holds no record by Atelier (PNG text 'atelier')", path);
    io_png_text_free(text, n);
    TRY(rc);
    return io_image_load(&s->image, path);
}

static int open_run(ReproduceSource *s, const char *path, int64_t index)
{
    SweepRunFile run;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, path));
    TRY_GOTO(sweep_runfile_image(&run, index, &s->image));
    rc = str_copy(&s->json, sweep_runfile_record(&run, index));
done:
    sweep_runfile_close(&run);
    return rc;
}

int reproduce_source_open(ReproduceSource *s, const char *path, int64_t index)
{
    int png = 0;
    memset(s, 0, sizeof *s);
    TRY(is_png(path, &png));
    TRY(png ? open_png(s, path) : open_run(s, path, index));
    return sweep_record_parse(&s->rec, s->json, path);
}

void reproduce_source_deinit(ReproduceSource *s)
{
    sweep_record_deinit(&s->rec);
    io_image_deinit(&s->image);
    free(s->json);
    memset(s, 0, sizeof *s);
}

static int find_name(const char *name, const char *const *names, const char *what, int *out)
{
    for (*out = 0; names[*out]; (*out)++)
        if (strcmp(name, names[*out]) == 0)
            return 0;
    return err_set(ERR_FORMAT, "record: unknown %s '%s'", what, name);
}

static int make_setup(const SweepRecord *rec, const Render *r, RenderSetup *s)
{
    int seed;
    render_setup_default(r, s);
    s->width = rec->width;
    s->height = rec->height;
    s->clip_skip = rec->clip_skip;
    s->guided = rec->guidance > 1;
    TRY(find_name(rec->seed_compat, RENDER_SEED_NAMES, "seed_compat", &seed));
    s->seed_compat = (RenderSeed)seed;
    if (rec->sampler[0])
        TRY(sampler_conf_set_kind(&s->sampler, rec->sampler));
    if (rec->spacing[0])
        TRY(sampler_conf_set_spacing(&s->sampler, rec->spacing));
    s->sampler.steps = rec->steps;
    s->sampler.eta = rec->eta;
    for (int i = 0; i < rec->nlora; i++)
        if (rec->lora[i].scale < 0 || rec->lora[i].scale > 0)
            s->lora[s->nlora++] = (RenderLora){rec->lora[i].path, rec->lora[i].scale};
    return render_setup_check(r, s);
}

/* The same weights, or there is nothing to compare. */
static int check_hashes(const SweepRecord *rec, const char *model, Render *r)
{
    const char *hex;
    TRY(render_model_hash(r, &hex));
    if (strcmp(hex, rec->model_hash) != 0)
        return err_set(ERR_FORMAT, "%s is another model: its hash is %.16s, the image was made with %.16s", model, hex, rec->model_hash);
    for (int i = 0; i < rec->nlora; i++) {
        if (!io_file_exists(rec->lora[i].path))
            return err_set(ERR_NOTFOUND, "LoRA %s (hash %.16s) is not there", rec->lora[i].path, rec->lora[i].hash);
        TRY(render_lora_hash(r, rec->lora[i].path, &hex));
        if (strcmp(hex, rec->lora[i].hash) != 0)
            return err_set(ERR_FORMAT, "%s is another LoRA: its hash is %.16s, the image was made with %.16s", rec->lora[i].path, hex,
                           rec->lora[i].hash);
    }
    return 0;
}

static void compare(const IoImage *a, const IoImage *b, ReproduceResult *out)
{
    double sum = 0;
    if (a->w != b->w || a->h != b->h || a->c != b->c) {
        out->psnr = 0;
        return;
    }
    size_t n = (size_t)a->w * (size_t)a->h;
    for (size_t p = 0; p < n; p++) {
        int differs = 0;
        for (size_t k = p * (size_t)a->c; k < (p + 1) * (size_t)a->c; k++) {
            int d = abs(a->data[k] - b->data[k]);
            sum += d * d;
            differs |= d;
            out->worst = d > out->worst ? d : out->worst;
        }
        out->pixels += differs != 0;
    }
    out->psnr = sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n * a->c / sum) : INFINITY;
}

int reproduce_run(const ReproduceSource *src, int threads, ReproduceResult *out)
{
    const SweepRecord *rec = &src->rec;
    const char *model = src->other_model ? src->other_model : rec->model;
    Render *r = NULL;
    RenderSetup s;
    RenderResult result = {0};
    int rc;
    memset(out, 0, sizeof *out);
    if (!io_file_is_dir(model))
        return err_set(ERR_NOTFOUND, "model folder %s (hash %.16s) is not there", model, rec->model_hash);
    const RenderConf conf = {.model = model,
                             .variant = rec->variant[0] ? rec->variant : NULL,
                             .dtype = strcmp(rec->dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
                             .threads = threads,
                             .keep = (int64_t)1 << 30};
    TRY_GOTO(render_open(&r, &conf));
    snprintf(out->backend, sizeof out->backend, "%s", render_backend(r));
    TRY_GOTO(check_hashes(rec, model, r));
    TRY_GOTO(make_setup(rec, r, &s));
    const RenderItem item = {.prompt = rec->prompt,
                             .negative = rec->negative,
                             .seed = (uint64_t)rec->seed,
                             .guidance = rec->guidance,
                             .guidance_rescale = rec->guidance_rescale};
    TRY_GOTO(render_run(r, &s, &item, 1, &result, NULL, NULL));
    TRY_GOTO(sweep_pixels_hash(out->sha256, &result.image));
    out->identical = strcmp(out->sha256, rec->pixels_sha256) == 0;
    if (src->image.data)
        compare(&src->image, &result.image, out);
    out->image = result.image;
    memset(&result.image, 0, sizeof result.image);
    rc = 0;
done:
    render_result_deinit(&result);
    render_close(r);
    return rc;
}
