#include "io/exif.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "io/file.h"

enum { TAG_DESCRIPTION = 0x010E, TAG_MAKE = 0x010F, TAG_MODEL = 0x0110, TAG_ORIENTATION = 0x0112, TAG_EXIF = 0x8769, TAG_COMMENT = 0x9286 };
enum { TYPE_ASCII = 2, TYPE_SHORT = 3, TYPE_LONG = 4, TYPE_UNDEFINED = 7, MAX_ENTRIES = 512, CODE_SIZE = 8 };

/* ---- writing: big endian ---- */

static void put16(uint8_t *p, size_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, size_t v)
{
    put16(p, v >> 16 & 0xFFFF);
    put16(p + 2, v & 0xFFFF);
}

static void put_entry(uint8_t *p, int tag, int type, size_t count, size_t value)
{
    put16(p, (size_t)tag);
    put16(p + 2, (size_t)type);
    put32(p + 4, count);
    put32(p + 8, value);
}

/* *n: bytes written to out (NULL: only counted). */
static int utf16be(const char *s, uint8_t *out, size_t *n)
{
    size_t len = strlen(s), at = 0;
    if (!str_is_utf8(s, len))
        return err_set(ERR_FORMAT, "EXIF text is not UTF-8");
    for (size_t i = 0; i < len;) {
        const unsigned char *p = (const unsigned char *)s + i;
        int more = *p < 0x80 ? 0 : *p < 0xE0 ? 1 : *p < 0xF0 ? 2 : 3;
        uint32_t cp = more ? *p & (0x3Fu >> more) : *p;
        for (int k = 1; k <= more; k++)
            cp = cp << 6 | (p[k] & 0x3F);
        i += (size_t)more + 1;
        if (cp >= 0x10000) {
            if (out)
                put16(out + at, 0xD800 + ((cp - 0x10000) >> 10));
            at += 2;
            cp = 0xDC00 + ((cp - 0x10000) & 0x3FF);
        }
        if (out)
            put16(out + at, cp);
        at += 2;
    }
    *n = at;
    return 0;
}

typedef struct {
    const char *comment;
    const IoPngText *tag[3];
    int ntag;
} Plan;

static int plan_texts(Plan *p, const IoPngText *text, int ntext)
{
    memset(p, 0, sizeof *p);
    for (int i = 0; i < ntext; i++) {
        if (strcmp(text[i].key, "parameters") == 0) {
            p->comment = text[i].value;
            continue;
        }
        if (p->ntag == 3)
            return err_set(ERR_RANGE, "EXIF: more than 3 texts beside the parameters");
        for (const char *s = text[i].value; *s; s++)
            if ((unsigned char)*s > 126)
                return err_set(ERR_FORMAT, "EXIF text '%s' is not ASCII", text[i].key);
        p->tag[p->ntag++] = &text[i];
    }
    return 0;
}

int io_exif_encode(uint8_t **data, size_t *size, const IoPngText *text, int ntext)
{
    Plan p;
    size_t comment = 0, n, tag_len[3] = {0}, total;
    *data = NULL;
    *size = 0;
    TRY(plan_texts(&p, text, ntext));
    if (p.comment)
        TRY(utf16be(p.comment, NULL, &comment));
    int entries = p.ntag + (p.comment != NULL);
    size_t at = 8 + 2 + 12 * (size_t)entries + 4, exif_at;
    for (int i = 0; i < p.ntag; i++)
        tag_len[i] = strlen(p.tag[i]->key) + 1 + strlen(p.tag[i]->value) + 1;
    total = at + tag_len[0] + tag_len[1] + tag_len[2] + (p.comment ? 1 + 2 + 12 + 4 + CODE_SIZE + comment : 0);
    uint8_t *d = calloc(total, 1);
    if (!d)
        return err_set(ERR_NOMEM, "out of memory: EXIF");
    memcpy(d, "MM\0*\0\0\0\10", 8);
    put16(d + 8, (size_t)entries);
    for (int i = 0; i < p.ntag; i++) {
        put_entry(d + 10 + 12 * i, TAG_DESCRIPTION + i, TYPE_ASCII, tag_len[i], at);
        n = strlen(p.tag[i]->key);
        memcpy(d + at, p.tag[i]->key, n);
        d[at + n] = ':';
        memcpy(d + at + n + 1, p.tag[i]->value, tag_len[i] - n - 1);
        at += tag_len[i];
    }
    if (p.comment) {
        exif_at = at + (at & 1);
        put_entry(d + 10 + 12 * p.ntag, TAG_EXIF, TYPE_LONG, 1, exif_at);
        put16(d + exif_at, 1);
        put_entry(d + exif_at + 2, TAG_COMMENT, TYPE_UNDEFINED, CODE_SIZE + comment, exif_at + 18);
        at = exif_at + 18;
        memcpy(d + at, "UNICODE", CODE_SIZE);
        utf16be(p.comment, d + at + CODE_SIZE, &n);
        at += CODE_SIZE + comment;
    }
    *data = d;
    *size = at;
    return 0;
}

/* ---- reading: either byte order ---- */

typedef struct {
    const uint8_t *d;
    size_t n;
    int big;
    IoPngText **text;
    int *ntext;
} Tiff;

static unsigned get16(const Tiff *t, size_t at)
{
    const uint8_t *p = t->d + at;
    return t->big ? (unsigned)(p[0] << 8 | p[1]) : (unsigned)(p[1] << 8 | p[0]);
}

static size_t get32(const Tiff *t, size_t at)
{
    size_t a = get16(t, at), b = get16(t, at + 2);
    return t->big ? a << 16 | b : b << 16 | a;
}

static int add_text(const Tiff *t, const char *key, size_t nkey, const char *value, size_t n)
{
    IoPngText *grown = realloc(*t->text, ((size_t)*t->ntext + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory: EXIF");
    *t->text = grown;
    char *k = strndup(key, nkey), *v = strndup(value, n);
    if (!k || !v) {
        free(k);
        free(v);
        return err_set(ERR_NOMEM, "out of memory: EXIF");
    }
    grown[(*t->ntext)++] = (IoPngText){k, v};
    return 0;
}

/* Writers disagree about the byte order: a mark decides, else where the zero bytes of mostly Latin text are. */
static int utf16_is_big(const uint8_t *p, size_t n, int tiff_big)
{
    size_t even = 0, odd = 0;
    if (n >= 2 && ((p[0] == 0xFE && p[1] == 0xFF) || (p[0] == 0xFF && p[1] == 0xFE)))
        return p[0] == 0xFE;
    for (size_t i = 0; i + 1 < n; i += 2) {
        even += p[i] == 0;
        odd += p[i + 1] == 0;
    }
    return even == odd ? tiff_big : even > odd;
}

static void add_utf8(StrBuf *b, uint32_t cp)
{
    if (cp < 0x80) {
        str_add_char(b, (char)cp);
    } else if (cp < 0x800) {
        str_add_char(b, (char)(0xC0 | cp >> 6));
        str_add_char(b, (char)(0x80 | (cp & 63)));
    } else if (cp < 0x10000) {
        str_add_char(b, (char)(0xE0 | cp >> 12));
        str_add_char(b, (char)(0x80 | (cp >> 6 & 63)));
        str_add_char(b, (char)(0x80 | (cp & 63)));
    } else {
        str_add_char(b, (char)(0xF0 | cp >> 18));
        str_add_char(b, (char)(0x80 | (cp >> 12 & 63)));
        str_add_char(b, (char)(0x80 | (cp >> 6 & 63)));
        str_add_char(b, (char)(0x80 | (cp & 63)));
    }
}

static int add_utf16(const Tiff *t, const uint8_t *p, size_t n)
{
    int big = utf16_is_big(p, n, t->big), rc;
    StrBuf b;
    str_init(&b);
    for (size_t i = 0; i + 1 < n; i += 2) {
        uint32_t u = big ? (uint32_t)(p[i] << 8 | p[i + 1]) : (uint32_t)(p[i + 1] << 8 | p[i]), low = 0;
        if (i + 3 < n)
            low = big ? (uint32_t)(p[i + 2] << 8 | p[i + 3]) : (uint32_t)(p[i + 3] << 8 | p[i + 2]);
        if (u == 0)
            break;
        if (u == 0xFEFF && i == 0)
            continue;
        if (u >= 0xD800 && u < 0xDC00 && low >= 0xDC00 && low < 0xE000) {
            u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
            i += 2;
        } else if (u >= 0xD800 && u < 0xE000) {
            u = 0xFFFD;
        }
        add_utf8(&b, u);
    }
    rc = str_status(&b);
    if (rc == 0 && b.len)
        rc = add_text(t, "parameters", 10, b.data, b.len);
    str_deinit(&b);
    return rc;
}

static int add_comment(const Tiff *t, const uint8_t *p, size_t n)
{
    if (n <= CODE_SIZE)
        return 0;
    const uint8_t *s = p + CODE_SIZE;
    n -= CODE_SIZE;
    if (memcmp(p, "UNICODE", CODE_SIZE) == 0)
        return add_utf16(t, s, n);
    n = strnlen((const char *)s, n);
    int known = memcmp(p, "ASCII\0\0", CODE_SIZE) == 0 || memcmp(p, "\0\0\0\0\0\0\0", CODE_SIZE) == 0;
    if (!known || !n || !str_is_utf8((const char *)s, n))
        return 0;
    return add_text(t, "parameters", 10, (const char *)s, n);
}

static int add_ascii(const Tiff *t, int tag, const char *s, size_t n)
{
    static const char *const names[] = {"ImageDescription", "Make", "Model"};
    size_t word = 0;
    n = strnlen(s, n);
    if (!n || !str_is_utf8(s, n))
        return 0;
    while (word < n && word < 79 && ((s[word] | 32) >= 'a' && (s[word] | 32) <= 'z'))
        word++;
    size_t at = word + 1;
    while (at < n && s[at] == ' ')
        at++;
    if (word && at < n && s[word] == ':' && s[at] == '{')
        return add_text(t, s, word, s + at, n - at);
    return add_text(t, names[tag - TAG_DESCRIPTION], strlen(names[tag - TAG_DESCRIPTION]), s, n);
}

static int read_directory(const Tiff *t, size_t dir, size_t *exif)
{
    if (dir + 2 > t->n)
        return 0;
    unsigned count = get16(t, dir);
    for (size_t i = 0; i < count && i < MAX_ENTRIES && dir + 2 + 12 * (i + 1) <= t->n; i++) {
        size_t e = dir + 2 + 12 * i, n = get32(t, e + 4);
        int tag = (int)get16(t, e), type = (int)get16(t, e + 2);
        size_t at = n <= 4 ? e + 8 : get32(t, e + 8);
        if (tag == TAG_EXIF && exif)
            *exif = get32(t, e + 8);
        if (at > t->n || n > t->n - at)
            continue;
        if (tag == TAG_COMMENT && (type == TYPE_UNDEFINED || type == 1))
            TRY(add_comment(t, t->d + at, n));
        else if (tag >= TAG_DESCRIPTION && tag <= TAG_MODEL && type == TYPE_ASCII)
            TRY(add_ascii(t, tag, (const char *)t->d + at, n));
    }
    return 0;
}

int io_exif_orientation(const uint8_t *data, size_t size)
{
    if (size >= 6 && memcmp(data, "Exif\0\0", 6) == 0)
        data += 6, size -= 6;
    Tiff t = {.d = data, .n = size, .big = size && data[0] == 'M'};
    if (size < 8 || (memcmp(data, "II*\0", 4) != 0 && memcmp(data, "MM\0*", 4) != 0))
        return 1;
    size_t dir = get32(&t, 4);
    if (dir > size - 2)
        return 1;
    unsigned count = get16(&t, dir);
    for (size_t i = 0; i < count && dir + 2 + 12 * (i + 1) <= size; i++) {
        size_t e = dir + 2 + 12 * i;
        unsigned v = get16(&t, e + 8);
        if (get16(&t, e) == TAG_ORIENTATION && get16(&t, e + 2) == TYPE_SHORT)
            return v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}

int io_exif_decode(IoPngText **text, int *ntext, const uint8_t *data, size_t size)
{
    size_t exif = 0;
    *text = NULL;
    *ntext = 0;
    if (size >= 6 && memcmp(data, "Exif\0\0", 6) == 0) {
        data += 6;
        size -= 6;
    }
    Tiff t = {data, size, 0, text, ntext};
    if (size < 8 || (memcmp(data, "II*\0", 4) != 0 && memcmp(data, "MM\0*", 4) != 0))
        return 0;
    t.big = data[0] == 'M';
    int rc = read_directory(&t, get32(&t, 4), &exif);
    if (rc >= 0 && exif)
        rc = read_directory(&t, exif, NULL);
    if (rc < 0) {
        io_png_text_free(*text, *ntext);
        *text = NULL;
        *ntext = 0;
    }
    return rc;
}

/* ---- where files keep the block ---- */

static int jpeg_block(const uint8_t *d, size_t n, const uint8_t **block, size_t *size)
{
    for (size_t at = 2; at + 4 <= n && d[at] == 0xFF;) {
        if (d[at + 1] == 0xFF) { /* fill byte */
            at++;
            continue;
        }
        size_t len = (size_t)d[at + 2] << 8 | d[at + 3];
        if (d[at + 1] == 0xDA || d[at + 1] == 0xD9 || len < 2 || len > n - at - 2)
            return 0;
        if (d[at + 1] == 0xE1 && len >= 8 && memcmp(d + at + 4, "Exif\0\0", 6) == 0) {
            *block = d + at + 4;
            *size = len - 2;
            return 1;
        }
        at += 2 + len;
    }
    return 0;
}

static int webp_block(const uint8_t *d, size_t n, const uint8_t **block, size_t *size)
{
    for (size_t at = 12; at + 8 <= n;) {
        size_t len = (size_t)d[at + 4] | (size_t)d[at + 5] << 8 | (size_t)d[at + 6] << 16 | (size_t)d[at + 7] << 24;
        if (len > n - at - 8)
            return 0;
        if (memcmp(d + at, "EXIF", 4) == 0) {
            *block = d + at + 8;
            *size = len;
            return 1;
        }
        at += 8 + len + (len & 1);
    }
    return 0;
}

int io_image_decode_text(IoPngText **text, int *ntext, const uint8_t *data, size_t size, const char *name)
{
    const uint8_t *block = NULL;
    size_t n = 0;
    int found;
    *text = NULL;
    *ntext = 0;
    if (size >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0)
        return io_png_decode_text(text, ntext, data, size, name);
    if (size >= 3 && memcmp(data, "\xFF\xD8\xFF", 3) == 0)
        found = jpeg_block(data, size, &block, &n);
    else if (size >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0)
        found = webp_block(data, size, &block, &n);
    else
        return err_set(ERR_FORMAT, "%s: not a PNG, JPEG or WebP image", name);
    return found ? io_exif_decode(text, ntext, block, n) : 0;
}

int io_image_read_text(IoPngText **text, int *ntext, const char *path)
{
    char *data = NULL;
    size_t size = 0;
    *text = NULL;
    *ntext = 0;
    TRY(io_file_read(&data, &size, path, (size_t)512 << 20));
    int rc = io_image_decode_text(text, ntext, (const uint8_t *)data, size, path);
    free(data);
    return rc;
}
