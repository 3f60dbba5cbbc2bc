#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <zlib.h>

#include "io/file.h"
#include "io/png.h"

enum { MAX_TEXT = 64 << 20, MAX_FILE = 512 << 20 };

static size_t be32(const uint8_t *p) { return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]; }

static int latin1_to_utf8(const uint8_t *s, size_t n, char **out)
{
    char *u = malloc(2 * n + 1);
    size_t k = 0;
    if (!u)
        return err_set(ERR_NOMEM, "out of memory: PNG text");
    for (size_t i = 0; i < n; i++) {
        if (s[i] < 0x80) {
            u[k++] = (char)s[i];
        } else {
            u[k++] = (char)(0xC0 | s[i] >> 6);
            u[k++] = (char)(0x80 | (s[i] & 0x3F));
        }
    }
    u[k] = 0;
    *out = u;
    return 0;
}

static int copy_utf8(const uint8_t *s, size_t n, char **out)
{
    utf8proc_int32_t cp;
    utf8proc_ssize_t used;
    for (size_t i = 0; i < n; i += (size_t)used)
        if ((used = utf8proc_iterate(s + i, (utf8proc_ssize_t)(n - i), &cp)) <= 0 || cp == 0)
            return err_set(ERR_FORMAT, "PNG: iTXt chunk is not UTF-8");
    char *u = malloc(n + 1);
    if (!u)
        return err_set(ERR_NOMEM, "out of memory: PNG text");
    memcpy(u, s, n);
    u[n] = 0;
    *out = u;
    return 0;
}

static int inflate_text(const uint8_t *s, size_t n, uint8_t **out, size_t *out_n)
{
    z_stream z = {0};
    size_t cap = 4 * n + 256;
    uint8_t *buf = malloc(cap);
    int rc = 0, state = Z_OK;
    if (!buf || inflateInit(&z) != Z_OK) {
        free(buf);
        return err_set(ERR_NOMEM, "out of memory: PNG text");
    }
    z.next_in = (Bytef *)(uintptr_t)s;
    z.avail_in = (uInt)n;
    while (rc == 0 && state != Z_STREAM_END) {
        if (z.total_out == cap) {
            uint8_t *p = cap < MAX_TEXT ? realloc(buf, cap * 2) : NULL;
            if (!p) {
                rc = err_set(ERR_RANGE, "PNG: text longer than %d bytes", (int)MAX_TEXT);
                break;
            }
            buf = p;
            cap *= 2;
        }
        z.next_out = buf + z.total_out;
        z.avail_out = (uInt)(cap - z.total_out);
        state = inflate(&z, Z_NO_FLUSH);
        if (state != Z_OK && state != Z_STREAM_END)
            rc = err_set(ERR_FORMAT, "PNG: compressed text is corrupt");
    }
    *out_n = z.total_out;
    inflateEnd(&z);
    if (rc < 0)
        free(buf);
    else
        *out = buf;
    return rc;
}

static int append(IoPngText **text, int *n, char *key, char *value)
{
    IoPngText *p = realloc(*text, ((size_t)*n + 1) * sizeof *p);
    if (!p) {
        free(key);
        free(value);
        return err_set(ERR_NOMEM, "out of memory: PNG text");
    }
    p[*n] = (IoPngText){key, value};
    *text = p;
    ++*n;
    return 0;
}

/* Body of an iTXt chunk after the key: flag, method, language 0, translated key 0, text. */
static int itxt_body(const uint8_t *s, size_t n, const uint8_t **body, size_t *len, int *packed)
{
    const uint8_t *end = s + n, *p = n >= 2 ? memchr(s + 2, 0, n - 2) : NULL;
    p = p ? memchr(p + 1, 0, (size_t)(end - p - 1)) : NULL;
    if (!p || s[0] > 1 || (s[0] && s[1]))
        return err_set(ERR_FORMAT, "PNG: iTXt chunk is malformed");
    *packed = s[0];
    *body = p + 1;
    *len = (size_t)(end - p - 1);
    return 0;
}

static int read_chunk(const char *type, const uint8_t *s, size_t n, IoPngText **text, int *ntext)
{
    const uint8_t *nul = memchr(s, 0, n), *body;
    if (!nul || nul == s)
        return err_set(ERR_FORMAT, "PNG: %s chunk has no key", type);
    body = nul + 1;
    size_t len = n - (size_t)(body - s);
    int utf8 = type[0] == 'i', packed = type[0] == 'z';
    if (utf8)
        TRY(itxt_body(body, len, &body, &len, &packed));
    else if (packed && (len < 1 || *body++ != 0))
        return err_set(ERR_FORMAT, "PNG: zTXt chunk is malformed");
    else if (packed)
        len--;
    uint8_t *plain = NULL;
    char *key = NULL, *value = NULL;
    if (packed) {
        TRY(inflate_text(body, len, &plain, &len));
        body = plain;
    }
    int rc = latin1_to_utf8(s, (size_t)(nul - s), &key);
    if (rc == 0)
        rc = utf8 ? copy_utf8(body, len, &value) : latin1_to_utf8(body, len, &value);
    free(plain);
    if (rc < 0) {
        free(key);
        return rc;
    }
    return append(text, ntext, key, value);
}

static int read_chunks(const uint8_t *d, size_t size, IoPngText **text, int *ntext)
{
    if (size < 8 || memcmp(d, "\x89PNG\r\n\x1a\n", 8) != 0)
        return err_set(ERR_FORMAT, "not a PNG file");
    size_t at = 8;
    for (;;) {
        if (size - at < 12)
            return err_set(ERR_FORMAT, "PNG: truncated at byte %zu", at);
        size_t n = be32(d + at);
        const uint8_t *type = d + at + 4, *body = d + at + 8;
        if (n > size - at - 12)
            return err_set(ERR_FORMAT, "PNG: chunk at byte %zu is truncated", at);
        if (memcmp(type, "IEND", 4) == 0)
            return 0;
        static const char *const kinds[] = {"tEXt", "zTXt", "iTXt"};
        for (int k = 0; k < 3; k++) {
            if (memcmp(type, kinds[k], 4) != 0)
                continue;
            if (crc32(crc32(0, NULL, 0), type, (uInt)n + 4) != be32(body + n))
                return err_set(ERR_FORMAT, "PNG: %s chunk at byte %zu has a wrong CRC", kinds[k], at);
            TRY(read_chunk(kinds[k], body, n, text, ntext));
        }
        at += n + 12;
    }
}

int io_png_decode_text(IoPngText **text, int *ntext, const uint8_t *data, size_t size, const char *name)
{
    *text = NULL;
    *ntext = 0;
    int rc = read_chunks(data, size, text, ntext);
    if (rc < 0) {
        io_png_text_free(*text, *ntext);
        *text = NULL;
        *ntext = 0;
        return err_context(rc, "%s", name);
    }
    return 0;
}

int io_png_read_text(IoPngText **text, int *ntext, const char *path)
{
    char *data = NULL;
    size_t size = 0;
    *text = NULL;
    *ntext = 0;
    TRY(io_file_read(&data, &size, path, MAX_FILE));
    int rc = io_png_decode_text(text, ntext, (const uint8_t *)data, size, path);
    free(data);
    return rc;
}

void io_png_text_free(IoPngText *text, int ntext)
{
    for (int i = 0; i < ntext; i++) {
        free(text[i].key);
        free(text[i].value);
    }
    free(text);
}

const char *io_png_text_find(const IoPngText *text, int ntext, const char *key)
{
    for (int i = 0; i < ntext; i++)
        if (strcmp(text[i].key, key) == 0)
            return text[i].value;
    return NULL;
}
