#include "sweep/score.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/png.h"

double score_black_white(const IoImage *img)
{
    int64_t n = (int64_t)img->w * img->h, hits = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *p = img->data + i * img->c;
        int dark = 1, light = 1;
        for (int k = 0; k < 3; k++) {
            uint8_t v = p[img->c >= 3 ? k : 0];
            dark &= v <= 40;
            light &= v >= 215;
        }
        hits += dark | light;
    }
    return n ? (double)hits / (double)n : 0;
}

void scores_deinit(Scores *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->group[i].lora);
    free(s->group);
    memset(s, 0, sizeof *s);
}

static int add(Scores *s, const char *lora, const IoImage *img)
{
    int i = 0;
    while (i < s->count && strcmp(s->group[i].lora, lora) < 0)
        i++;
    if (i == s->count || strcmp(s->group[i].lora, lora) != 0) {
        ScoreGroup *grown = realloc(s->group, (size_t)(s->count + 1) * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory");
        s->group = grown;
        memmove(&grown[i + 1], &grown[i], (size_t)(s->count - i) * sizeof *grown);
        memset(&grown[i], 0, sizeof *grown);
        s->count++;
        TRY(str_copy(&grown[i].lora, lora));
    }
    ScoreGroup *g = &s->group[i];
    g->images++;
    g->black_white += (score_black_white(img) - g->black_white) / (double)g->images;
    return 0;
}

static int read_run(Scores *s, const char *path)
{
    SweepRunFile run;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, path));
    for (int64_t k = 0; k < run.meta.n && rc >= 0; k++) {
        IoImage img = {0};
        rc = sweep_runfile_image(&run, k, &img);
        if (rc >= 0)
            rc = add(s, sweep_block_text(&run.meta, SWEEP_COL_LORA, k), &img);
        io_image_deinit(&img);
    }
done:
    sweep_runfile_close(&run);
    return rc;
}

static int add_png(Scores *s, const char *path)
{
    IoPngText *text = NULL;
    IoImage img = {0};
    SweepRecord rec = {0};
    StrBuf lora, hashes;
    int n = 0, rc;
    str_init(&lora);
    str_init(&hashes);
    TRY_GOTO(io_png_read_text(&text, &n, path));
    TRY_GOTO(io_image_load(&img, path));
    TRY_GOTO(io_image_to_rgb(&img, 255, 255, 255));
    const char *json = io_png_text_find(text, n, "atelier");
    if (json) {
        TRY_GOTO(sweep_record_parse(&rec, json, path));
        sweep_record_lora(&rec, &lora, &hashes);
        TRY_GOTO(str_status(&lora));
    }
    rc = add(s, json ? lora.data : "(no record)", &img);
done:
    str_deinit(&lora);
    str_deinit(&hashes);
    sweep_record_deinit(&rec);
    io_image_deinit(&img);
    io_png_text_free(text, n);
    return rc;
}

static int read_folder(Scores *s, const char *dir)
{
    IoNames names;
    int rc = 0;
    TRY(io_dir_list(&names, dir, ".png"));
    for (int i = 0; i < names.count && rc >= 0; i++) {
        char *path;
        if ((rc = io_path_join(&path, dir, names.items[i])) < 0)
            break;
        rc = add_png(s, path);
        free(path);
    }
    io_names_deinit(&names);
    return rc;
}

int scores_read(Scores *s, const char *path)
{
    memset(s, 0, sizeof *s);
    TRY(io_file_is_dir(path) ? read_folder(s, path) : read_run(s, path));
    return s->count ? 0 : err_set(ERR_NOTFOUND, "%s: no images", path);
}
