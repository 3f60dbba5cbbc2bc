#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "base/version.h"
#include "cli/cli.h"
#include "io/file.h"
#include "sweep/picture.h"
#include "sweep/reproduce.h"

static const char usage[] =
    "usage: atelier reproduce FILE.png|FILE.jpg|FILE.webp|run.h5#INDEX|run.h5 [--model FOLDER] [--models FOLDER]... [-o OUT.png]\n"
    "                         [--psnr N] [--config-only]\n\n"
    "Renders an image again from nothing but its own record and compares the pixels. A run.h5 without a number: every image.\n"
    "On the recorded backend the pixels must be identical; on another one their PSNR must reach --psnr (35 dB). Exit code 0 when\n"
    "they do, 1 when they do not.\n\n"
    "  --model    the model's folder where it has moved (it must be the same one)\n"
    "  --models   where to look, by hash, for a model or LoRA that is not where the record says; may be given several times\n"
    "  -o         keeps the new image, with its record\n\n"
    "Images by A1111 (and all who write its `parameters`), ComfyUI and InvokeAI become a configuration; what could not be carried\n"
    "over is listed. They are rendered when the model is found, and compared by PSNR.\n"
    "  --config-only   only prints the configuration (YAML), for these and for our own images\n";

enum { MAX_FOLDERS = 32 };

typedef struct {
    const char *ref, *out;
    const char *folder[MAX_FOLDERS];
    ReproduceOptions o;
    double psnr;
    int config_only;
} Args;

static int parse_option(Args *a, int argc, char **argv, int *i, int *used)
{
    const char *v;
    char *end;
    *used = 1;
    TRY(cli_option("reproduce", argc, argv, i, "--models", &v));
    if (v && a->o.folders.count == MAX_FOLDERS)
        return cli_usage("reproduce", "--models: at most %d", MAX_FOLDERS);
    if (v) {
        a->folder[a->o.folders.count++] = v;
        return 0;
    }
    TRY(cli_option("reproduce", argc, argv, i, "--model", &v));
    if (v) {
        a->o.model = v;
        return 0;
    }
    TRY(cli_option("reproduce", argc, argv, i, "-o", &v));
    if (v) {
        a->out = v;
        return 0;
    }
    TRY(cli_option("reproduce", argc, argv, i, "--psnr", &v));
    if (v) {
        a->psnr = strtod(v, &end);
        return end == v || *end || !(a->psnr >= 0) ? cli_usage("reproduce", "--psnr: expected a number, got '%s'", v) : 0;
    }
    *used = 0;
    return 0;
}

static int parse(Args *a, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int used;
        TRY(parse_option(a, argc, argv, &i, &used));
        if (used)
            continue;
        if (strcmp(argv[i], "--config-only") == 0)
            a->config_only = 1;
        else if (argv[i][0] == '-')
            return cli_usage("reproduce", "unknown option '%s'", argv[i]);
        else if (a->ref)
            return cli_usage("reproduce", "one image expected, got '%s' and '%s'", a->ref, argv[i]);
        else
            a->ref = argv[i];
    }
    a->o.folders.items = a->folder;
    return a->ref ? 0 : cli_usage("reproduce", "an image or a run.h5 is expected");
}

static void print_difference(const ReproduceResult *r)
{
    if (isnan(r->psnr))
        printf("different; there are no pixels of this size to compare with\n");
    else if (isinf(r->psnr))
        printf("different: the stored pixels are not those of the record\n");
    else
        printf("different: PSNR %.2f dB, %lld pixels differ, by at most %d\n", r->psnr, (long long)r->pixels, r->worst);
}

/* Whether that is as good as it must be. */
static int passes(const Args *a, const ReproduceResult *r)
{
    return r->identical || (!r->same_backend && r->psnr >= (a->psnr < 0 ? 35 : a->psnr));
}

static int reproduce_one(const Args *a, Reproducer *r, const char *json, const IoImage *stored, const char *name)
{
    const PictureStyle style = {PICTURE_PNG, 0, 0};
    ReproduceResult res = {0};
    SweepRecord rec = {0};
    int rc;
    TRY_GOTO(sweep_record_parse(&rec, json, name));
    TRY_GOTO(reproducer_record(r, json, stored, name, &res));
    printf("image %lld, seed %lld, %dx%d, '%s'\n", (long long)rec.index, (long long)rec.seed, rec.width, rec.height, rec.prompt);
    printf("recorded %.16s by %s (%s), %s\n", rec.pixels_sha256, rec.version, rec.commit, rec.backend);
    printf("rendered %.16s by %s (%s), %s\n", res.sha256, ATELIER_VERSION, version_commit(), res.backend);
    if (res.identical)
        printf("identical\n");
    else
        print_difference(&res);
    if (a->out)
        TRY_GOTO(picture_write(a->out, &res.image, json, &style));
    if (!passes(a, &res))
        rc = err_set(ERR_NUMERIC, "%s: the image came out different", name);
done:
    io_image_deinit(&res.image);
    sweep_record_deinit(&rec);
    return rc;
}

static int print_conf(const char *json, const char *name)
{
    SweepConf c = {0};
    StrBuf b;
    str_init(&b);
    int rc = reproduce_conf(&c, json, name);
    if (rc >= 0)
        rc = config_override(&sweep_conf_table, &c, "output=out/again");
    if (rc >= 0)
        rc = config_dump(&sweep_conf_table, &c, &b);
    if (rc >= 0 && (rc = str_status(&b)) >= 0)
        fputs(b.data, stdout);
    str_deinit(&b);
    config_deinit(&sweep_conf_table, &c);
    return rc;
}

/* ---- images of other programs ---- */

static int render_foreign(const Args *a, Reproducer *r, const Foreign *f, const char *yaml, const IoImage *stored)
{
    SweepConf c = {0};
    ReproduceResult res = {0};
    int rc;
    TRY_GOTO(config_init(&sweep_conf_table, &c));
    TRY_GOTO(config_load_text(&sweep_conf_table, &c, yaml, strlen(yaml), a->ref));
    TRY_GOTO(reproducer_conf(r, &c, stored, &res));
    printf("by %s, rendered %.16s, %s\n", f->tool, res.sha256, res.backend);
    if (isinf(res.psnr))
        printf("identical\n");
    else
        print_difference(&res);
    if (a->out)
        TRY_GOTO(io_png_write(a->out, &res.image, NULL, 0, 6));
    if (a->psnr >= 0 && !(res.psnr >= a->psnr))
        rc = err_set(ERR_NUMERIC, "%s: the image came out different", a->ref);
done:
    io_image_deinit(&res.image);
    config_deinit(&sweep_conf_table, &c);
    return rc;
}

static int reproduce_foreign(const Args *a, Reproducer *r, const IoPngText *text, int n, const IoImage *stored)
{
    Foreign f;
    StrBuf yaml;
    int rc;
    str_init(&yaml);
    TRY_GOTO(foreign_parse(&f, text, n, a->ref));
    if (!f.width && !f.source[0] && stored->data) {
        f.width = stored->w;
        f.height = stored->h;
    }
    TRY_GOTO(reproduce_find(&f, &a->o));
    foreign_yaml(&f, io_path_name(a->ref), "out/again", &yaml);
    TRY_GOTO(str_status(&yaml));
    if (a->config_only) {
        fputs(yaml.data, stdout);
        goto done;
    }
    if (f.lost.len)
        printf("not carried over:\n%s", f.lost.data);
    if (!f.model_path[0])
        rc = err_set(ERR_NOTFOUND, "%s: model %s (hash %s) was not found: name its folder with --model, or see --config-only", a->ref,
                     f.model, f.model_hash[0] ? f.model_hash : "unknown");
    else
        rc = render_foreign(a, r, &f, yaml.data, stored);
done:
    str_deinit(&yaml);
    foreign_deinit(&f);
    return rc;
}

static int reproduce_file(const Args *a, Reproducer *r, const char *path)
{
    IoPngText *text;
    IoImage img = {0};
    int n, rc;
    TRY(io_image_read_text(&text, &n, path));
    const char *json = io_png_text_find(text, n, "atelier");
    TRY_GOTO(io_image_load(&img, path));
    TRY_GOTO(io_image_to_rgb(&img, 255, 255, 255));
    if (json)
        rc = a->config_only ? print_conf(json, path) : reproduce_one(a, r, json, &img, path);
    else
        rc = reproduce_foreign(a, r, text, n, &img);
done:
    io_image_deinit(&img);
    io_png_text_free(text, n);
    return rc;
}

/* ---- run files ---- */

static int reproduce_all(const Args *a, Reproducer *r, SweepRunFile *run, const char *path)
{
    int64_t identical = 0, near = 0;
    Progress p;
    progress_init(&p, "image", 0, run->meta.n, 1);
    for (int64_t k = 0; k < run->meta.n; k++) {
        IoImage img = {0};
        ReproduceResult res = {0};
        int rc = sweep_runfile_image(run, k, &img);
        if (rc >= 0)
            rc = reproducer_record(r, sweep_runfile_record(run, k), &img, path, &res);
        if (rc >= 0 && !res.identical) {
            progress_break(&p);
            printf("image %lld: ", (long long)k);
            print_difference(&res);
        }
        identical += res.identical;
        near += !res.identical && passes(a, &res);
        io_image_deinit(&res.image);
        io_image_deinit(&img);
        TRY_CTX(rc, "image %lld", (long long)k);
        progress_update(&p, k + 1, "%lld identical", (long long)identical);
    }
    progress_break(&p);
    printf("%lld images: %lld identical", (long long)run->meta.n, (long long)identical);
    if (near)
        printf(", %lld near (another backend)", (long long)near);
    printf("\n");
    return identical + near == run->meta.n ? 0 : err_set(ERR_NUMERIC, "%s: %lld images came out different", path,
                                                         (long long)(run->meta.n - identical - near));
}

static int reproduce_run(const Args *a, Reproducer *r, const char *path, int64_t index)
{
    SweepRunFile run = {0};
    IoImage img = {0};
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, path));
    if (index < 0) {
        rc = a->out || a->config_only ? cli_usage("reproduce", "-o and --config-only are for one image: %s#0", path)
                                      : reproduce_all(a, r, &run, path);
        goto done;
    }
    TRY_GOTO(sweep_runfile_image(&run, index, &img));
    const char *json = sweep_runfile_record(&run, index);
    rc = a->config_only ? print_conf(json, path) : reproduce_one(a, r, json, &img, path);
done:
    io_image_deinit(&img);
    sweep_runfile_close(&run);
    return rc;
}

static int reproduce(Args *a)
{
    Reproducer *r = NULL;
    char *path;
    int64_t index;
    int rc;
    a->o.threads = cli_threads(NULL, 0);
    TRY_GOTO(picture_ref_parse(a->ref, &path, &index));
    TRY_GOTO(reproducer_create(&r, &a->o));
    if (picture_is_run(path))
        rc = reproduce_run(a, r, path, index);
    else
        rc = index >= 0 ? cli_usage("reproduce", "%s is no run.h5", path) : reproduce_file(a, r, path);
done:
    reproducer_destroy(r);
    free(path);
    return rc;
}

int cli_reproduce(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {.psnr = -1};
    int rc = parse(&a, argc, argv);
    return cli_exit(rc < 0 ? rc : reproduce(&a));
}
