#include "text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

int32_t text_utf8_decode(const char *s, size_t len, size_t *used)
{
    const unsigned char *p = (const unsigned char *)s;
    unsigned c = p[0];
    *used = 1;
    if (c < 0x80)
        return (int32_t)c;
    int need = c >= 0xC2 && c <= 0xDF ? 1 : (c & 0xF0) == 0xE0 ? 2 : c >= 0xF0 && c <= 0xF4 ? 3 : 0;
    if (!need)
        return 0xFFFD;
    /* The second byte's range rules out overlong forms, surrogates and values over U+10FFFF. */
    unsigned lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    uint32_t cp = c & (0x3Fu >> need);
    for (int k = 1; k <= need; k++) {
        if ((size_t)k >= len || p[k] < lo || p[k] > hi)
            return 0xFFFD;
        cp = cp << 6 | (p[k] & 0x3Fu);
        lo = 0x80;
        hi = 0xBF;
        *used = (size_t)k + 1;
    }
    return (int32_t)cp;
}

size_t text_utf8_encode(int32_t cp, char *out)
{
    uint32_t c = (uint32_t)cp;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t k = n - 1; k > 0; k--) {
        out[k] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (char)(lead[n] | c);
    return n;
}

int text_utf8_valid(const char *s, size_t len)
{
    size_t used;
    for (size_t i = 0; i < len; i += used)
        if (text_utf8_decode(s + i, len - i, &used) == 0xFFFD && !(used == 3 && memcmp(s + i, "\xEF\xBF\xBD", 3) == 0))
            return 0;
    return 1;
}

int text_is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* NFC as code points. */
static int compose(const char *s, size_t len, int32_t **out, size_t *out_n)
{
    int rc = ERR_NOMEM;
    size_t n = 0, used;
    int32_t *cps = NULL;
    char *clean = malloc(3 * len + 1); /* U+FFFD takes three bytes where one was bad */
    if (!clean)
        return err_set(ERR_NOMEM, "out of memory normalising text");
    for (size_t i = 0; i < len; i += used)
        n += text_utf8_encode(text_utf8_decode(s + i, len - i, &used), clean + n);
    const utf8proc_option_t opt = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    utf8proc_ssize_t need = utf8proc_decompose((const utf8proc_uint8_t *)clean, (utf8proc_ssize_t)n, NULL, 0, opt);
    if (need < 0 || !(cps = malloc(((size_t)need + 1) * sizeof *cps)))
        goto done;
    if (utf8proc_decompose((const utf8proc_uint8_t *)clean, (utf8proc_ssize_t)n, cps, need, opt) != need)
        goto done;
    need = utf8proc_normalize_utf32(cps, need, opt);
    if (need < 0)
        goto done;
    *out = cps;
    *out_n = (size_t)need;
    cps = NULL;
    rc = 0;
done:
    free(cps);
    free(clean);
    return rc < 0 ? err_set(rc, "cannot normalise text") : 0;
}

int text_clip_normalize(const char *s, size_t len, char **out, size_t *out_len)
{
    if (len > TEXT_MAX_BYTES)
        return err_set(ERR_RANGE, "text of %zu bytes: at most %d", len, (int)TEXT_MAX_BYTES);
    int32_t *cps = NULL;
    size_t n = 0, k = 0;
    TRY(compose(s, len, &cps, &n));
    char *buf = malloc(4 * n + 1);
    if (!buf) {
        free(cps);
        return err_set(ERR_NOMEM, "out of memory normalising text");
    }
    int space = 0;
    for (size_t i = 0; i < n; i++) {
        if (text_is_space(cps[i])) {
            if (!space)
                buf[k++] = ' ';
            space = 1;
            continue;
        }
        space = 0;
        if (cps[i] == 0x130) { /* the only character whose lower case is two */
            memcpy(buf + k, "i\xCC\x87", 3);
            k += 3;
        } else {
            k += text_utf8_encode(utf8proc_tolower(cps[i]), buf + k);
        }
    }
    buf[k] = 0;
    free(cps);
    *out = buf;
    *out_len = k;
    return 0;
}
