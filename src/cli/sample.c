#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "cli/cli.h"
#include "io/file.h"
#include "sweep/picture.h"
#include "sweep/record.h"
#include "sweep/sweep.h"

static const char usage[] =
    "usage: atelier sample MODEL \"PROMPT\" [-o FILE.png|.jpg|.webp] [--lora FILE[:SCALE]]... [key=value ...]\n\n"
    "Renders one image (sample.png) with all keys of a sweep configuration but model, prompt, output and axes.\n"
    "From a picture: source=FILE strength=0.6; inpainting: mask=FILE beside it; a second, larger pass:\n"
    "hires.upscale=latent-bicubic hires.scale=1.5; the noise of another seed mixed in: variation_seed=2\n"
    "variation_strength=0.2. docs/sweeps.md says more.\n"
    "The PNG holds everything needed to make it again: atelier reproduce FILE.png\n";

typedef struct {
    const char *model, *prompt, *out;
    StrBuf lora; /* "lora=[{path: ..., scale: ...}, ...]" */
} Args;

static int add_lora(Args *a, const char *text)
{
    double scale;
    size_t n;
    TRY(cli_file_scale("sample", text, &n, &scale));
    str_add(&a->lora, a->lora.len ? ", {path: " : "lora=[{path: ");
    str_add_json(&a->lora, text, n);
    str_add(&a->lora, ", scale: ");
    str_add_number(&a->lora, scale, 0);
    str_add_char(&a->lora, '}');
    return 0;
}

static int parse(Args *a, int argc, char **argv, const char **overrides, int *count)
{
    const char *value;
    for (int i = 1; i < argc; i++) {
        TRY(cli_option("sample", argc, argv, &i, "--lora", &value));
        if (value) {
            TRY(add_lora(a, value));
            continue;
        }
        TRY(cli_option("sample", argc, argv, &i, "-o", &value));
        if (value)
            a->out = value;
        else if (argv[i][0] == '-' && argv[i][1] && a->model)
            return cli_usage("sample", "unknown option '%s'", argv[i]);
        else if (a->model && a->prompt && config_is_override(argv[i]))
            overrides[(*count)++] = argv[i];
        else if (!a->model)
            a->model = argv[i];
        else if (!a->prompt)
            a->prompt = argv[i];
        else
            return cli_usage("sample", "unexpected '%s'", argv[i]);
    }
    return a->prompt ? 0 : cli_usage("sample", "a model folder and a prompt are expected");
}

static int on_step(void *ctx, int i, int n)
{
    progress_update(ctx, i, "of %d steps", n);
    return 0;
}

static int make_conf(SweepConf *c, const Args *a, const char *const *overrides, int count)
{
    TRY(config_init(&sweep_conf_table, c));
    for (int i = 0; i < count; i++)
        TRY(config_override(&sweep_conf_table, c, overrides[i]));
    if (a->lora.len) {
        char *text;
        TRY(str_format(&text, "%s]", a->lora.data));
        int rc = config_override(&sweep_conf_table, c, text);
        free(text);
        TRY(rc);
    }
    free(c->model);
    free(c->prompt);
    c->model = c->prompt = NULL;
    TRY(str_copy(&c->model, a->model));
    TRY(str_copy(&c->prompt, a->prompt));
    return c->axes ? err_set(ERR_USAGE, "axes: one image has none; use atelier sweep") : 0;
}

/* Before the work: the format of the file and its folder. */
static int check_out(const char *path, PictureFormat *format)
{
    char *dir;
    TRY_CTX(picture_format_of(format, path), "-o");
    TRY(io_path_dir(&dir, path));
    int rc = io_file_is_dir(dir) ? 0 : err_set(ERR_NOTFOUND, "-o %s: there is no folder %s", path, dir);
    free(dir);
    return rc;
}

static int save(const SweepRecord *rec, const char *path, const IoImage *img, PictureFormat format)
{
    StrBuf json;
    str_init(&json);
    sweep_record_json(rec, &json);
    int rc = picture_write(path, img, json.data, &(PictureStyle){format, 95, 1});
    str_deinit(&json);
    return rc;
}

static int sample(const SweepConf *c, const char *path)
{
    SweepGrid grid = {0};
    Render *r = NULL;
    RenderConf rc_conf;
    RenderSetup s;
    RenderItem item;
    RenderResult result = {0};
    SweepItem it = {0};
    SweepRecord rec;
    char hex[HASH_HEX_SIZE];
    Progress p;
    PictureFormat format;
    int rc;
    TRY_GOTO(check_out(path, &format));
    TRY_GOTO(sweep_grid_init(&grid, c));
    TRY_GOTO(sweep_item_load(&grid, 0, &it));
    sweep_conf_render(c, &rc_conf);
    rc_conf.threads = cli_threads(NULL, c->threads);
    TRY_GOTO(render_open(&r, &rc_conf));
    TRY_GOTO(sweep_item_setup(&it, c, r, &s));
    sweep_item_render(&it, &item);
    progress_init(&p, "step", 0, s.sampler.steps, 1);
    rc = render_run(r, &s, &item, 1, &result, on_step, &p);
    progress_break(&p);
    if (rc < 0)
        goto done;
    TRY_GOTO(sweep_pixels_hash(hex, &result.image));
    TRY_GOTO(sweep_record_make(&rec, r, c, &it, &s, hex));
    TRY_GOTO(save(&rec, path, &result.image, format));
    printf("%s\n", path);
done:
    render_result_deinit(&result);
    render_close(r);
    sweep_item_deinit(&it);
    sweep_grid_deinit(&grid);
    return rc;
}

int cli_sample(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, &sweep_conf_table);
    Args a = {.out = "sample.png"};
    SweepConf c = {0};
    int count = 0;
    str_init(&a.lora);
    const char **overrides = calloc((size_t)argc + 1, sizeof *overrides);
    int rc = overrides ? parse(&a, argc, argv, overrides, &count) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = make_conf(&c, &a, overrides, count);
    if (rc >= 0)
        rc = sample(&c, a.out);
    config_deinit(&sweep_conf_table, &c);
    str_deinit(&a.lora);
    free(overrides);
    return cli_exit(rc);
}
