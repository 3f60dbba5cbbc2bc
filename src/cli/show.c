#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "io/file.h"
#include "io/png.h"
#include "sweep/picture.h"
#include "sweep/table.h"

static const char usage[] =
    "usage: atelier show run.h5[#INDEX] [-o FILE.png|.jpg|.webp]\n"
    "       atelier show FILE.png|.jpg|.webp\n\n"
    "Prints all that is known about an image: its record, columns and texts; -o also writes the picture, with its record.\n"
    "Of a run.h5 without a number: what the run is.\n";

static int parse(int argc, char **argv, const char **ref, const char **out)
{
    const char *v;
    for (int i = 1; i < argc; i++) {
        TRY(cli_option("show", argc, argv, &i, "-o", &v));
        if (v)
            *out = v;
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage("show", "unknown option '%s'", argv[i]);
        else if (*ref)
            return cli_usage("show", "one image expected, got '%s' and '%s'", *ref, argv[i]);
        else
            *ref = argv[i];
    }
    return *ref ? 0 : cli_usage("show", "an image or a run.h5 is expected");
}

/* "key: value" lines of a JSON object; nested values as JSON. */
static int print_record(const char *json)
{
    const char *key;
    json_t *v, *o = json_loads(json, 0, NULL);
    if (!json_is_object(o)) {
        json_decref(o);
        return err_set(ERR_FORMAT, "the record is no JSON object");
    }
    json_object_foreach(o, key, v) {
        char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
        printf("%-18s %s\n", key, json_is_string(v) ? json_string_value(v) : text ? text : "");
        free(text);
    }
    json_decref(o);
    return 0;
}

static int show_image(SweepRunFile *run, int64_t index, const char *out)
{
    IoImage img = {0};
    PictureStyle style = {PICTURE_PNG, 95, 1};
    Table t = {0};
    int rc = 0;
    if (index >= run->meta.n)
        return err_set(ERR_RANGE, "%s: image %lld: expected 0..%lld", io_h5_path(run->f), (long long)index, (long long)run->meta.n - 1);
    TRY_GOTO(table_init(&t, run));
    TRY_GOTO(print_record(sweep_runfile_record(run, index)));
    for (int i = 0; i < t.count; i++) {
        int more = t.column[i].kind == TABLE_AXIS ||
                   (t.column[i].kind == TABLE_COLUMN && (t.column[i].at == SWEEP_COL_SECONDS || t.column[i].at == SWEEP_COL_RANK));
        StrBuf b;
        if (!more || t.column[i].alias)
            continue;
        str_init(&b);
        rc = table_text(&t, index, i, &b);
        if (rc >= 0)
            printf("%-18s %s\n", t.column[i].name, b.data);
        str_deinit(&b);
        if (rc < 0)
            goto done;
    }
    if (out) {
        TRY_GOTO(picture_format_of(&style.format, out));
        TRY_GOTO(sweep_runfile_image(run, index, &img));
        TRY_GOTO(picture_write(out, &img, sweep_runfile_record(run, index), &style));
        printf("%-18s %s\n", "written to", out);
    }
done:
    io_image_deinit(&img);
    table_deinit(&t);
    return rc;
}

static int show_run(SweepRunFile *run)
{
    static const char *const keys[] = {"version", "commit", "backend", "dtype", "host", "started", "finished", "model_hash", "identity"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char *text;
        if (!io_h5_attr_exists(run->f, "/", keys[i]) || io_h5_attr_str(run->f, "/", keys[i], &text) < 0)
            continue;
        printf("%-18s %s\n", keys[i], text);
        free(text);
    }
    printf("%-18s %lld\n", "images", (long long)run->meta.n);
    printf("config:\n%s", run->config);
    return 0;
}

static int show_file(const char *path)
{
    IoPngText *text;
    int n, w, h, rc = 0;
    TRY(io_image_read_text(&text, &n, path));
    TRY_GOTO(io_image_size(path, &w, &h));
    printf("%s: %dx%d\n", path, w, h);
    for (int i = 0; i < n && rc >= 0; i++) {
        if (strcmp(text[i].key, "atelier") == 0)
            rc = print_record(text[i].value);
        else
            printf("[%s]\n%s\n", text[i].key, text[i].value);
    }
    if (!n)
        printf("no texts\n");
done:
    io_png_text_free(text, n);
    return rc;
}

static int show(const char *ref, const char *out)
{
    char *path;
    int64_t index;
    SweepRunFile run = {0};
    int rc;
    TRY_GOTO(picture_ref_parse(ref, &path, &index));
    if (!picture_is_run(path)) {
        rc = out || index >= 0 ? cli_usage("show", "%s is no run.h5: no number and no -o", path) : show_file(path);
        goto done;
    }
    TRY_GOTO(sweep_runfile_open(&run, path));
    if (index < 0 && out)
        rc = cli_usage("show", "-o needs the number of an image: %s#0", path);
    else
        rc = index < 0 ? show_run(&run) : show_image(&run, index, out);
done:
    sweep_runfile_close(&run);
    free(path);
    return rc;
}

int cli_show(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    const char *ref = NULL, *out = NULL;
    int rc = parse(argc, argv, &ref, &out);
    return cli_exit(rc < 0 ? rc : show(ref, out));
}
