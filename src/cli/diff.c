#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "io/file.h"
#include "io/png.h"
#include "sweep/lock.h"
#include "sweep/picture.h"
#include "sweep/reproduce.h"

static const char usage[] =
    "usage: atelier diff A B\n\n"
    "Says what differs: settings and hashes, one a line, and pixels (how many, by how much at most and in the mean, PSNR).\n"
    "A and B are both images (FILE.png, .jpg, .webp or run.h5#INDEX), runs (run.h5 or the folder with it), configurations, or lock\n"
    "files. Exit code 0 when nothing differs, 1 when something does.\n";

enum { MAX_TEXT = 64 << 20, SHOWN = 20 };

typedef struct {
    int64_t count; /* differences printed or counted */
} Found;

static void print_value(const char *text)
{
    size_t n = strcspn(text, "\n");
    printf("%.*s%s", (int)(n > 200 ? 200 : n), text, text[n] || n > 200 ? "..." : "");
}

static void print_pair(Found *f, const char *key, const char *a, const char *b)
{
    f->count++;
    printf("%s: ", key);
    print_value(a);
    printf(" -> ");
    print_value(b);
    printf("\n");
}

/* ---- JSON objects, and YAML by way of them ---- */

static char *text_of(const json_t *v)
{
    if (json_is_string(v))
        return strdup(json_string_value(v));
    return v ? json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15)) : strdup("(not there)");
}

static int diff_values(Found *f, const char *key, const json_t *a, const json_t *b)
{
    const char *name;
    json_t *v;
    char *path;
    if (a && b && json_equal(a, b))
        return 0;
    if (json_is_object(a) && json_is_object(b)) {
        json_object_foreach((json_t *)a, name, v) {
            TRY(str_format(&path, "%s%s%s", key, *key ? "." : "", name));
            int rc = diff_values(f, path, v, json_object_get(b, name));
            free(path);
            TRY(rc);
        }
        json_object_foreach((json_t *)b, name, v) {
            if (json_object_get(a, name))
                continue;
            TRY(str_format(&path, "%s%s%s", key, *key ? "." : "", name));
            int rc = diff_values(f, path, NULL, v);
            free(path);
            TRY(rc);
        }
        return 0;
    }
    char *ta = text_of(a), *tb = text_of(b);
    if (ta && tb)
        print_pair(f, key, ta, tb);
    int rc = ta && tb ? 0 : err_set(ERR_NOMEM, "out of memory");
    free(ta);
    free(tb);
    return rc;
}

static int diff_json(Found *f, const char *a, const char *b)
{
    json_t *ja = json_loads(a, 0, NULL), *jb = json_loads(b, 0, NULL);
    int rc = ja && jb ? diff_values(f, "", ja, jb) : err_set(ERR_FORMAT, "a record is no JSON");
    json_decref(ja);
    json_decref(jb);
    return rc;
}

static int yaml_json(const char *yaml, const char *name, StrBuf *out)
{
    ConfNode *n;
    TRY(conf_node_parse(&n, yaml, strlen(yaml), name));
    conf_node_dump_json(n, out);
    conf_node_destroy(n);
    return str_status(out);
}

static int diff_yaml(Found *f, const char *a, const char *b, const char *na, const char *nb)
{
    StrBuf ja, jb;
    str_init(&ja);
    str_init(&jb);
    int rc = yaml_json(a, na, &ja);
    if (rc >= 0)
        rc = yaml_json(b, nb, &jb);
    if (rc >= 0)
        rc = diff_json(f, ja.data, jb.data);
    str_deinit(&ja);
    str_deinit(&jb);
    return rc;
}

static int diff_configs(Found *f, const char *a, const char *b)
{
    StrBuf ya, yb;
    str_init(&ya);
    str_init(&yb);
    int rc = cli_config_resolved(a, NULL, 0, &ya);
    if (rc >= 0)
        rc = cli_config_resolved(b, NULL, 0, &yb);
    if (rc >= 0)
        rc = diff_yaml(f, ya.data, yb.data, a, b);
    str_deinit(&ya);
    str_deinit(&yb);
    return rc;
}

/* ---- pixels ---- */

static double mean_difference(const IoImage *a, const IoImage *b)
{
    size_t n = (size_t)a->w * (size_t)a->h * (size_t)a->c;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += abs(a->data[i] - b->data[i]);
    return n ? sum / (double)n : 0;
}

static void diff_pixels(Found *f, const char *what, const IoImage *a, const IoImage *b)
{
    ReproduceResult r = {0};
    if (a->w != b->w || a->h != b->h) {
        f->count++;
        printf("%s: %dx%d -> %dx%d\n", what, a->w, a->h, b->w, b->h);
        return;
    }
    reproduce_compare(a, b, &r);
    if (!r.pixels)
        return;
    f->count++;
    printf("%s: %lld of %lld pixels differ, by at most %d, %.3f in the mean; PSNR %.2f dB\n", what, (long long)r.pixels,
           (long long)a->w * a->h, r.worst, mean_difference(a, b), r.psnr);
}

/* ---- images ---- */

typedef struct {
    IoImage image;
    char *json;      /* record; NULL */
    IoPngText *text; /* of a file */
    int ntext;
} Picture;

static void picture_deinit(Picture *p)
{
    io_image_deinit(&p->image);
    io_png_text_free(p->text, p->ntext);
    free(p->json);
}

static int picture_open(Picture *p, const char *path, int64_t index)
{
    SweepRunFile run = {0};
    int rc;
    memset(p, 0, sizeof *p);
    if (index < 0) {
        TRY(io_image_load(&p->image, path));
        TRY(io_image_to_rgb(&p->image, 255, 255, 255));
        TRY(io_image_read_text(&p->text, &p->ntext, path));
        const char *json = io_png_text_find(p->text, p->ntext, "atelier");
        return json ? str_copy(&p->json, json) : 0;
    }
    TRY_GOTO(sweep_runfile_open(&run, path));
    TRY_GOTO(sweep_runfile_image(&run, index, &p->image));
    rc = str_copy(&p->json, sweep_runfile_record(&run, index));
done:
    sweep_runfile_close(&run);
    return rc;
}

static int diff_texts(Found *f, const Picture *a, const Picture *b)
{
    if (a->json && b->json)
        return diff_json(f, a->json, b->json);
    for (int i = 0; i < a->ntext; i++) {
        const char *other = io_png_text_find(b->text, b->ntext, a->text[i].key);
        if (!other || strcmp(other, a->text[i].value) != 0)
            print_pair(f, a->text[i].key, a->text[i].value, other ? other : "(not there)");
    }
    for (int i = 0; i < b->ntext; i++)
        if (!io_png_text_find(a->text, a->ntext, b->text[i].key))
            print_pair(f, b->text[i].key, "(not there)", b->text[i].value);
    return 0;
}

static int diff_pictures(Found *f, const char *a, int64_t ia, const char *b, int64_t ib)
{
    Picture pa, pb = {0};
    int rc;
    TRY_GOTO(picture_open(&pa, a, ia));
    TRY_GOTO(picture_open(&pb, b, ib));
    TRY_GOTO(diff_texts(f, &pa, &pb));
    diff_pixels(f, "pixels", &pa.image, &pb.image);
done:
    picture_deinit(&pa);
    picture_deinit(&pb);
    return rc;
}

/* ---- runs ---- */

static int diff_image(Found *f, SweepRunFile *a, SweepRunFile *b, int64_t k, int print)
{
    IoImage ia = {0}, ib = {0};
    char what[64];
    int rc = 0;
    if (!print) {
        f->count++;
        return 0;
    }
    snprintf(what, sizeof what, "image %lld", (long long)k);
    TRY_GOTO(sweep_runfile_image(a, k, &ia));
    TRY_GOTO(sweep_runfile_image(b, k, &ib));
    diff_pixels(f, what, &ia, &ib);
done:
    io_image_deinit(&ia);
    io_image_deinit(&ib);
    return rc;
}

static int diff_attributes(Found *f, SweepRunFile *a, SweepRunFile *b)
{
    static const char *const keys[] = {"version", "commit", "backend", "dtype", "model_hash", "identity"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char *x, *y = NULL;
        int rc = io_h5_attr_str(a->f, "/", keys[i], &x);
        if (rc >= 0 && (rc = io_h5_attr_str(b->f, "/", keys[i], &y)) >= 0 && strcmp(x, y) != 0)
            print_pair(f, keys[i], x, y);
        free(x);
        free(y);
        TRY(rc);
    }
    return 0;
}

static int diff_images(Found *f, SweepRunFile *a, SweepRunFile *b)
{
    int64_t n = a->meta.n < b->meta.n ? a->meta.n : b->meta.n, differ = 0;
    if (a->meta.n != b->meta.n) {
        f->count++;
        printf("images: %lld -> %lld\n", (long long)a->meta.n, (long long)b->meta.n);
    }
    for (int64_t k = 0; k < n; k++)
        if (strcmp(sweep_block_text(&a->meta, SWEEP_COL_PIXELS, k), sweep_block_text(&b->meta, SWEEP_COL_PIXELS, k)) != 0)
            TRY(diff_image(f, a, b, k, differ++ < SHOWN));
    if (differ)
        printf("%lld of %lld images differ\n", (long long)differ, (long long)n);
    return 0;
}

static int diff_runs(Found *f, const char *a, const char *b)
{
    SweepRunFile ra = {0}, rb = {0};
    int rc;
    TRY_GOTO(sweep_runfile_open(&ra, a));
    TRY_GOTO(sweep_runfile_open(&rb, b));
    TRY_GOTO(diff_attributes(f, &ra, &rb));
    TRY_GOTO(diff_yaml(f, ra.config, rb.config, a, b));
    rc = diff_images(f, &ra, &rb);
done:
    sweep_runfile_close(&ra);
    sweep_runfile_close(&rb);
    return rc;
}

/* ---- what the two are ---- */

typedef enum { IS_IMAGE, IS_RUN, IS_LOCK, IS_CONFIG } Kind;
typedef struct {
    char *path, *text; /* text: of a lock file */
    int64_t index;
    Kind kind;
} Side;

static int side_open(Side *s, const char *ref)
{
    IoPngText *text;
    int n;
    size_t size;
    TRY(picture_ref_parse(ref, &s->path, &s->index));
    if (io_file_is_dir(s->path)) {
        char *inside;
        TRY(io_path_join(&inside, s->path, "run.h5"));
        free(s->path);
        s->path = inside;
    }
    if (!io_file_exists(s->path))
        return err_set(ERR_NOTFOUND, "%s is not there", s->path);
    if (picture_is_run(s->path)) {
        s->kind = s->index >= 0 ? IS_IMAGE : IS_RUN;
        return 0;
    }
    if (io_image_read_text(&text, &n, s->path) >= 0) {
        io_png_text_free(text, n);
        s->kind = IS_IMAGE;
        return 0;
    }
    TRY(io_file_read(&s->text, &size, s->path, MAX_TEXT));
    s->kind = lock_is(s->text) ? IS_LOCK : IS_CONFIG;
    return 0;
}

static int diff_locks(Found *f, const Side *a, const Side *b)
{
    StrBuf report;
    int n;
    str_init(&report);
    int rc = lock_compare(a->text, b->text, &report, &n);
    fputs(report.data, stdout);
    f->count += report.len != 0;
    str_deinit(&report);
    return rc;
}

static int diff(const char *a, const char *b)
{
    static const char *const names[] = {"an image", "a run", "a lock file", "a configuration"};
    Side sa = {0}, sb = {0};
    Found f = {0};
    int rc;
    TRY_GOTO(side_open(&sa, a));
    TRY_GOTO(side_open(&sb, b));
    if (sa.kind != sb.kind) {
        rc = cli_usage("diff", "%s is %s, %s is %s", a, names[sa.kind], b, names[sb.kind]);
        goto done;
    }
    rc = sa.kind == IS_IMAGE  ? diff_pictures(&f, sa.path, sa.index, sb.path, sb.index)
         : sa.kind == IS_RUN  ? diff_runs(&f, sa.path, sb.path)
         : sa.kind == IS_LOCK ? diff_locks(&f, &sa, &sb)
                              : diff_configs(&f, sa.path, sb.path);
    if (rc >= 0 && !f.count)
        printf("nothing differs\n");
    else if (rc >= 0)
        rc = err_set(ERR_NUMERIC, "%s and %s differ", a, b);
done:
    free(sa.path);
    free(sa.text);
    free(sb.path);
    free(sb.text);
    return rc;
}

int cli_diff(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    if (argc != 3)
        return cli_exit(cli_usage("diff", "two images, runs, configurations or lock files are expected"));
    return cli_exit(diff(argv[1], argv[2]));
}
