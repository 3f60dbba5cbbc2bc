#include "sweep/picture.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "io/exif.h"
#include "io/file.h"

const char *const PICTURE_FORMAT_NAMES[] = {"png", "jpeg", "webp", NULL};
const char *const PICTURE_EXTENSION[] = {".png", ".jpg", ".webp"};

int picture_format_parse(PictureFormat *out, const char *name)
{
    for (int i = 0; PICTURE_FORMAT_NAMES[i]; i++)
        if (strcasecmp(name, PICTURE_FORMAT_NAMES[i]) == 0 || strcasecmp(name, PICTURE_EXTENSION[i] + 1) == 0) {
            *out = (PictureFormat)i;
            return 0;
        }
    return err_set(ERR_RANGE, "'%s': expected png, jpeg or webp", name);
}

int picture_format_of(PictureFormat *out, const char *path)
{
    const char *ext = io_path_ext(path);
    *out = PICTURE_PNG;
    return *ext ? picture_format_parse(out, ext + 1) : 0;
}

/* The record in ASCII, as EXIF's text fields want it. */
static int ascii_json(char **out, const char *json)
{
    json_t *o = json_loads(json, 0, NULL);
    *out = o ? json_dumps(o, JSON_ENSURE_ASCII | JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return *out ? 0 : err_set(ERR_FORMAT, "the record is no JSON");
}

static int encode_exif(uint8_t **exif, size_t *size, const char *json)
{
    SweepRecord rec;
    char *info = NULL, *ascii = NULL, k1[] = "parameters", k2[] = "atelier";
    int rc;
    TRY_GOTO(sweep_record_parse(&rec, json, "record"));
    TRY_GOTO(sweep_record_infotext(&rec, &info));
    TRY_GOTO(ascii_json(&ascii, json));
    const IoPngText text[] = {{k1, info}, {k2, ascii}};
    rc = io_exif_encode(exif, size, text, 2);
done:
    sweep_record_deinit(&rec);
    free(info);
    free(ascii);
    return rc;
}

int picture_write(const char *path, const IoImage *img, const char *json, const PictureStyle *style)
{
    uint8_t *exif = NULL, *data = NULL;
    size_t exif_size = 0, size = 0;
    int rc;
    if (style->format == PICTURE_PNG)
        return sweep_record_png(path, img, json);
    TRY_GOTO(encode_exif(&exif, &exif_size, json));
    if (style->format == PICTURE_JPEG)
        TRY_GOTO(io_jpeg_encode(&data, &size, img, style->quality, exif, exif_size));
    else
        TRY_GOTO(io_webp_encode(&data, &size, img, style->quality, style->lossless, exif, exif_size));
    rc = io_file_write(path, data, size);
done:
    free(exif);
    free(data);
    return rc < 0 ? err_context(rc, "%s", path) : 0;
}

int picture_ref_parse(const char *ref, char **file, int64_t *index)
{
    const char *hash = strrchr(ref, '#');
    *index = -1;
    *file = NULL;
    if (!hash || io_file_exists(ref))
        return str_copy(file, ref);
    char *end;
    errno = 0;
    *index = strtoll(hash + 1, &end, 10);
    if (errno || end == hash + 1 || *end || *index < 0)
        return err_set(ERR_USAGE, "%s: expected the number of an image (from 0) after '#'", ref);
    return str_format(file, "%.*s", (int)(hash - ref), ref);
}

int picture_is_run(const char *path)
{
    char head[8] = {0};
    FILE *f = fopen(path, "rb");
    if (!f)
        return 0;
    size_t n = fread(head, 1, sizeof head, f);
    fclose(f);
    return n == sizeof head && memcmp(head, "\x89HDF\r\n\x1a\n", 8) == 0;
}
