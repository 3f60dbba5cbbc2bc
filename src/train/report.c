#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "io/file.h"
#include "io/plot.h"
#include "io/png.h"
#include "train/dreambooth.h"
#include "train/watch.h"

enum { PLOT_W = 860, PLOT_H = 340 };

static const double BLUE[3] = {0.12, 0.37, 0.70}, PALE[3] = {0.72, 0.82, 0.93}, RED[3] = {0.80, 0.20, 0.15};

typedef struct {
    const TrainConf *c;
    const TrainState *s;
    double *x;      /* 1..steps */
    float *smooth;  /* of the loss */
    double *vx;     /* steps of the validations */
    float *lr;
} Curves;

/* Running mean over about a fiftieth of the run; skipped steps do not count. */
static void smooth(Curves *v)
{
    const TrainState *s = v->s;
    double a = 2.0 / (1 + fmax(1, (double)s->step / 50)), mean = NAN;
    for (int64_t i = 0; i < s->step; i++) {
        double y = (double)s->loss[i];
        if (isfinite(y))
            mean = isfinite(mean) ? mean + fmax(a, 1.0 / (double)(i + 1)) * (y - mean) : y;
        v->smooth[i] = (float)mean;
    }
}

static int curves_init(Curves *v, const TrainConf *c, const TrainState *s)
{
    size_t n = (size_t)s->step + 1;
    *v = (Curves){c, s, malloc(n * sizeof(double)), malloc(n * sizeof(float)), malloc(((size_t)s->nvalid + 1) * sizeof(double)),
                  malloc(n * sizeof(float))};
    if (!v->x || !v->smooth || !v->vx || !v->lr)
        return err_set(ERR_NOMEM, "report: out of memory");
    for (int64_t i = 0; i < s->step; i++) {
        v->x[i] = (double)(i + 1);
        v->lr[i] = train_conf_lr(c, i);
    }
    for (int64_t i = 0; i < s->nvalid; i++)
        v->vx[i] = (double)s->valid_step[i];
    smooth(v);
    return 0;
}

static void curves_deinit(Curves *v)
{
    free(v->x);
    free(v->smooth);
    free(v->vx);
    free(v->lr);
}

static IoSeries series(const double *x, const float *y, int64_t n, const char *label, const double rgb[3], double width)
{
    return (IoSeries){x, y, n, label, {rgb[0], rgb[1], rgb[2]}, width, 0};
}

static int loss_plot(const Curves *v, IoImage *out)
{
    const TrainState *s = v->s;
    IoSeries all[3] = {series(v->x, s->loss, s->step, "each step", PALE, 1), series(v->x, v->smooth, s->step, "smoothed", BLUE, 2),
                       series(v->vx, s->valid_loss, s->nvalid, "held-out images", RED, 2)};
    all[2].dots = 1;
    const IoPlot p = {.w = PLOT_W, .h = PLOT_H, .title = "Loss", .x_label = "step", .series = all, .nseries = s->nvalid ? 3 : 2, .from_zero = 1};
    return io_plot_draw(out, &p);
}

static int one_plot(const Curves *v, const char *title, const float *y, IoImage *out)
{
    const IoSeries one = series(v->x, y, v->s->step, NULL, BLUE, 1.5);
    const IoPlot p = {.w = PLOT_W, .h = 220, .title = title, .x_label = "step", .series = &one, .nseries = 1, .from_zero = 1};
    return io_plot_draw(out, &p);
}

/* ---- HTML ---- */

static void add_escaped(StrBuf *b, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            str_add(b, "&lt;");
        else if (*text == '&')
            str_add(b, "&amp;");
        else if (*text == '"')
            str_add(b, "&quot;");
        else
            str_add_char(b, *text);
    }
}

static void add_base64(StrBuf *b, const uint8_t *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        for (int k = 0; k < 4; k++)
            str_add_char(b, i + (size_t)k < n + 1 ? digits[v >> (18 - 6 * k) & 63] : '=');
    }
}

static void add_png(StrBuf *b, const uint8_t *png, size_t size, const char *alt)
{
    str_add_format(b, "<img alt=\"%s\" src=\"data:image/png;base64,", alt);
    add_base64(b, png, size);
    str_add(b, "\">\n");
}

static int add_image(StrBuf *b, const IoImage *img, const char *alt)
{
    uint8_t *png;
    size_t size;
    TRY(io_png_encode(&png, &size, img, NULL, 0, -1));
    add_png(b, png, size, alt);
    free(png);
    return 0;
}

static void row(StrBuf *b, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void row(StrBuf *b, const char *key, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    str_add_format(b, "<tr><th>%s</th><td>", key);
    add_escaped(b, text);
    str_add(b, "</td></tr>\n");
}

static void add_summary(StrBuf *b, const Curves *v, const TrainTask *t)
{
    static const char *const tasks[] = {"LoRA", "full fine-tuning", "VAE", "CLIP", "textual inversion"};
    const TrainConf *c = v->c;
    const TrainState *s = v->s;
    str_add(b, "<h2>Result</h2><table>\n");
    row(b, "what", "%s of %s", tasks[c->task], c->model);
    row(b, "steps", "%lld of %d images%s", (long long)s->step, c->batch, s->step < c->steps ? ", not finished" : "");
    row(b, "loss", "%.5f smoothed at the end, %.5f in the first step", s->step ? (double)v->smooth[s->step - 1] : 0,
        s->step ? (double)s->loss[0] : 0);
    if (s->nvalid)
        row(b, "held-out loss", "%.5f after step %lld, %.5f after step %lld", (double)s->valid_loss[0], (long long)s->valid_step[0],
            (double)s->valid_loss[s->nvalid - 1], (long long)s->valid_step[s->nvalid - 1]);
    if (s->skipped)
        row(b, "skipped steps", "%lld, whose gradients were not finite", (long long)s->skipped);
    row(b, "trained values", "%lld", (long long)s->n);
    row(b, "data", "%lld images, an epoch of %lld entries", (long long)train_dataset_count(t->data), (long long)train_dataset_epoch(t->data));
    row(b, "weights of the model", "%s", t->model_hash[0] ? t->model_hash : "random");
    row(b, "program", "atelier %s, commit %s, %s", ATELIER_VERSION, version_commit(), t->be->label);
    str_add(b, "</table>\n");
}

static void add_timings(StrBuf *b, const TrainStep *p, const TrainTask *t, int64_t first, double seconds)
{
    static const char *const names[TRAIN_PHASES] = {"images and noise", "forward and backward", "waiting for and adding over ranks",
                                                    "gradient sums and optimizer"};
    double arena, params, state, mib = 1 << 20, steps = (double)(p->state->step - first), rest = seconds;
    train_task_bytes(t, &arena, &params, &state);
    str_add(b, "<h2>Time and memory</h2><table>\n");
    row(b, "ranks", "%d, %d threads each", t->comm->size, t->be->threads);
    row(b, "since this start", "%.0f steps in %.1f s, %.2f images/s", steps, seconds, seconds > 0 ? steps * t->conf->batch / seconds : 0);
    for (int i = 0; i < TRAIN_PHASES; i++) {
        row(b, names[i], "%.1f s (%.1f %%) on rank 0", p->seconds[i], seconds > 0 ? 100 * p->seconds[i] / seconds : 0);
        rest -= p->seconds[i];
    }
    row(b, "validation, samples, checkpoints", "%.1f s", rest > 0 ? rest : 0);
    row(b, "memory of a rank", "%.1f MiB: activations %.1f, parameters %.1f, gradients and optimizer %.1f", (arena + params + state) / mib,
        arena / mib, params / mib, state / mib);
    str_add(b, "</table>\n");
}

static void add_validation(StrBuf *b, const TrainState *s)
{
    if (!s->nvalid)
        return;
    str_add(b, "<h2>Held-out images</h2><table>\n<tr><th>step</th><td>loss</td></tr>\n");
    for (int64_t i = 0; i < s->nvalid; i++)
        str_add_format(b, "<tr><th>%lld</th><td>%.5f</td></tr>\n", (long long)s->valid_step[i], (double)s->valid_loss[i]);
    str_add(b, "</table>\n");
}

static int add_samples(StrBuf *b, const TrainConf *c)
{
    char *path, *png = NULL;
    size_t size;
    TRY(io_path_join(&path, c->output, "samples.png"));
    int rc = io_file_exists(path) ? io_file_read(&png, &size, path, (size_t)1 << 28) : 0;
    if (png) {
        str_add(b, "<h2>Samples</h2>\n");
        add_png(b, (const uint8_t *)png, size, "samples over time");
    }
    free(png);
    free(path);
    return rc;
}

static int add_curves(StrBuf *b, const Curves *v)
{
    IoImage img = {0};
    str_add(b, "<h2>Curves</h2>\n");
    TRY(loss_plot(v, &img));
    int rc = add_image(b, &img, "loss");
    io_image_deinit(&img);
    TRY(rc);
    if (one_plot(v, "Gradient norm", v->s->norm, &img) >= 0) { /* absent where every step was skipped */
        rc = add_image(b, &img, "gradient norm");
        io_image_deinit(&img);
    }
    TRY(rc);
    TRY(one_plot(v, "Learning rate", v->lr, &img));
    rc = add_image(b, &img, "learning rate");
    io_image_deinit(&img);
    return rc;
}

static int write_page(const Curves *v, const char *config, const TrainStep *p, const TrainTask *t, int64_t first, double seconds, StrBuf *b)
{
    const char *name = io_path_name(v->c->output);
    str_add(b, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>");
    add_escaped(b, name);
    str_add(b, "</title>\n<style>body{font:15px/1.5 sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}img{max-width:100%}"
               "table{border-collapse:collapse}th{text-align:left;font-weight:normal;color:#666;padding:2px 1.5em 2px 0;vertical-align:top}"
               "td{padding:2px 0}pre{background:#f5f5f5;padding:1em;overflow:auto;font-size:13px}h2{margin-top:1.6em}</style>\n<h1>");
    add_escaped(b, name);
    str_add(b, "</h1>\n");
    add_summary(b, v, t);
    TRY(add_curves(b, v));
    TRY(add_samples(b, v->c));
    add_validation(b, v->s);
    add_timings(b, p, t, first, seconds);
    str_add(b, "<h2>Settings</h2>\n<pre>");
    add_escaped(b, config);
    str_add(b, "</pre>\n</html>\n");
    return str_status(b);
}

static int write_loss_png(const Curves *v)
{
    IoImage img = {0};
    char *path;
    TRY(loss_plot(v, &img));
    int rc = io_path_join(&path, v->c->output, "loss.png");
    if (rc >= 0) {
        rc = io_png_write(path, &img, NULL, 0, -1);
        free(path);
    }
    io_image_deinit(&img);
    return rc;
}

int train_report_write(const TrainConf *c, const char *config, const TrainStep *p, const TrainTask *t, int64_t first, double seconds)
{
    Curves v;
    StrBuf page;
    char *path = NULL;
    str_init(&page);
    int rc = curves_init(&v, c, p->state);
    if (rc >= 0)
        rc = write_loss_png(&v);
    if (rc >= 0)
        rc = write_page(&v, config, p, t, first, seconds, &page);
    if (rc >= 0)
        rc = io_path_join(&path, c->output, "report.html");
    if (rc >= 0)
        rc = io_file_write(path, page.data, page.len);
    free(path);
    str_deinit(&page);
    curves_deinit(&v);
    return rc;
}
