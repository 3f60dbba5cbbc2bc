#include "io/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"
#include "io/file.h"

struct IoEvents {
    FILE *f;
    char *path;
};

uint32_t io_crc32c(const void *data, size_t n)
{
    const uint8_t *p = data;
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = (c >> 1) ^ (0x82f63b78u & (0u - (c & 1)));
    }
    return ~c;
}

/* ---- wire format ---- */

static void put_le(StrBuf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        str_add_char(b, (char)(v >> (8 * i) & 255));
}

static void put_varint(StrBuf *b, uint64_t v)
{
    for (; v >= 128; v >>= 7)
        str_add_char(b, (char)((v & 127) | 128));
    str_add_char(b, (char)v);
}

static void put_int(StrBuf *b, int field, int64_t v)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, (uint64_t)v);
}

static void put_bytes(StrBuf *b, int field, const void *data, size_t n)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    str_add_bytes(b, data, n);
}

static void put_float(StrBuf *b, int field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(b, (uint64_t)field << 3 | 5);
    put_le(b, bits, 4);
}

static void put_double(StrBuf *b, int field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(b, (uint64_t)field << 3 | 1);
    put_le(b, bits, 8);
}

static uint32_t masked(const void *data, size_t n)
{
    uint32_t c = io_crc32c(data, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

/* An Event whose field `field` is `body`. */
static int write_event(IoEvents *e, int64_t step, int field, const StrBuf *body)
{
    StrBuf ev, frame;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    str_init(&ev);
    str_init(&frame);
    put_double(&ev, 1, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    put_int(&ev, 2, step);
    put_bytes(&ev, field, body->data, body->len);
    put_le(&frame, ev.len, 8);
    put_le(&frame, masked(frame.data, 8), 4);
    str_add_bytes(&frame, ev.data, ev.len);
    put_le(&frame, masked(ev.data, ev.len), 4);
    int rc = str_status(body);
    if (rc >= 0)
        rc = str_status(&ev);
    if (rc >= 0)
        rc = str_status(&frame);
    if (rc >= 0 && fwrite(frame.data, 1, frame.len, e->f) != frame.len)
        rc = err_set(ERR_IO, "%s: cannot be written", e->path);
    str_deinit(&ev);
    str_deinit(&frame);
    return rc;
}

/* Summary { value: [{ tag, FIELD: body }] } */
static int write_value(IoEvents *e, int64_t step, const char *tag, const StrBuf *rest)
{
    StrBuf value, summary;
    str_init(&value);
    str_init(&summary);
    put_bytes(&value, 1, tag, strlen(tag));
    str_add_bytes(&value, rest->data, rest->len);
    put_bytes(&summary, 1, value.data, value.len);
    int rc = str_status(rest);
    if (rc >= 0)
        rc = write_event(e, step, 5, &summary);
    str_deinit(&value);
    str_deinit(&summary);
    return rc;
}

int io_events_open(IoEvents **out, const char *dir, const char *name, int64_t step)
{
    char host[256] = "host";
    StrBuf body;
    IoEvents *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(ERR_NOMEM, "events: out of memory");
    gethostname(host, sizeof host - 1);
    str_init(&body);
    int rc = io_dir_make(dir);
    if (rc >= 0)
        rc = str_format(&e->path, "%s/events.out.tfevents.%010lld.%s.%d.%s", dir, (long long)time(NULL), host, (int)getpid(), name);
    if (rc >= 0 && !(e->f = fopen(e->path, "ab")))
        rc = err_set(ERR_IO, "%s: cannot be made", e->path);
    str_add(&body, "brain.Event:2");
    if (rc >= 0)
        rc = write_event(e, 0, 3, &body);
    str_clear(&body);
    put_int(&body, 1, 1); /* SessionLog.START */
    if (rc >= 0)
        rc = write_event(e, step, 7, &body);
    str_deinit(&body);
    if (rc >= 0)
        rc = io_events_flush(e);
    if (rc < 0) {
        io_events_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

int io_events_scalar(IoEvents *e, int64_t step, const char *tag, float value)
{
    StrBuf rest;
    str_init(&rest);
    put_float(&rest, 2, value);
    int rc = write_value(e, step, tag, &rest);
    str_deinit(&rest);
    return rc;
}

int io_events_image(IoEvents *e, int64_t step, const char *tag, const uint8_t *png, size_t size, int w, int h)
{
    StrBuf image, rest;
    str_init(&image);
    str_init(&rest);
    put_int(&image, 1, h);
    put_int(&image, 2, w);
    put_int(&image, 3, 3); /* RGB */
    put_bytes(&image, 4, png, size);
    put_bytes(&rest, 4, image.data, image.len);
    int rc = str_status(&image);
    if (rc >= 0)
        rc = write_value(e, step, tag, &rest);
    str_deinit(&image);
    str_deinit(&rest);
    return rc;
}

/* Value { metadata { plugin_data { plugin_name: "text" } }, tensor { dtype: DT_STRING, string_val } } */
int io_events_text(IoEvents *e, int64_t step, const char *tag, const char *text)
{
    StrBuf plugin, meta, tensor, rest;
    str_init(&plugin);
    str_init(&meta);
    str_init(&tensor);
    str_init(&rest);
    put_bytes(&plugin, 1, "text", 4);
    put_bytes(&meta, 1, plugin.data, plugin.len);
    put_int(&tensor, 1, 7);
    put_bytes(&tensor, 8, text, strlen(text));
    put_bytes(&rest, 9, meta.data, meta.len);
    put_bytes(&rest, 8, tensor.data, tensor.len);
    int rc = write_value(e, step, tag, &rest);
    str_deinit(&plugin);
    str_deinit(&meta);
    str_deinit(&tensor);
    str_deinit(&rest);
    return rc;
}

int io_events_flush(IoEvents *e)
{
    return fflush(e->f) ? err_set(ERR_IO, "%s: cannot be written", e->path) : 0;
}

void io_events_close(IoEvents *e)
{
    if (!e)
        return;
    if (e->f)
        fclose(e->f);
    free(e->path);
    free(e);
}
