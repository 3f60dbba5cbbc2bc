#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "io/s3_impl.h"

static const int MAX_PARTS = 10000;

typedef struct {
    const IoS3 *s;
    const char *bucket, *name, *path;
    int64_t size, part;
    char sha256[HASH_HEX_SIZE], meta[100];
    int fd;
    char *buf;       /* [part] */
    Hash *hash;      /* of what was read for sending */
    char upload[512]; /* encoded UploadId */
    StrBuf list;     /* <Part> elements */
} Put;

static int read_part(Put *p, size_t want)
{
    for (size_t got = 0; got < want;) {
        ssize_t n = read(p->fd, p->buf + got, want - got);
        if (n < 0)
            return err_errno("%s: read", p->path);
        if (n == 0)
            return err_set(ERR_BUSY, "%s: became shorter while it was uploaded", p->path);
        got += (size_t)n;
    }
    return hash_update(p->hash, p->buf, want);
}

/* What was sent is what was there when the hash was taken. */
static int check_read(Put *p)
{
    uint8_t sum[HASH_SIZE];
    char hex[HASH_HEX_SIZE];
    TRY(hash_finish(p->hash, sum));
    hash_hex(hex, sum, HASH_SIZE);
    return strcmp(hex, p->sha256) == 0 ? 0 : err_set(ERR_BUSY, "%s: changed while it was uploaded", p->path);
}

static int put_whole(Put *p)
{
    S3Call c = {.method = "PUT", .query = "", .meta = p->meta, .body = p->buf, .size = (size_t)p->size};
    TRY(read_part(p, (size_t)p->size));
    TRY(check_read(p));
    str_init(&c.answer);
    int rc = s3_call(p->s, &c, p->bucket, p->name);
    s3_call_deinit(&c);
    return rc;
}

static int begin(Put *p)
{
    S3Call c = {.method = "POST", .query = "uploads=", .meta = p->meta};
    str_init(&c.answer);
    int rc = s3_call(p->s, &c, p->bucket, p->name);
    const char *id = rc >= 0 ? strstr(c.answer.data, "<UploadId>") : NULL;
    char raw[400], *coded = NULL;
    if (rc >= 0 && !id)
        rc = err_set(ERR_FORMAT, "%s/%s: the server gave no UploadId", p->bucket, p->name);
    if (rc >= 0) {
        snprintf(raw, sizeof raw, "%.*s", (int)strcspn(id + 10, "<"), id + 10);
        rc = io_s3_encode(&coded, raw, 0);
    }
    if (rc >= 0)
        snprintf(p->upload, sizeof p->upload, "%s", coded);
    free(coded);
    s3_call_deinit(&c);
    return rc;
}

static int put_part(Put *p, int number, size_t size)
{
    char query[700];
    TRY(read_part(p, size));
    snprintf(query, sizeof query, "partNumber=%d&uploadId=%s", number, p->upload);
    S3Call c = {.method = "PUT", .query = query, .body = p->buf, .size = size};
    str_init(&c.answer);
    int rc = s3_call(p->s, &c, p->bucket, p->name);
    if (rc >= 0 && !c.etag)
        rc = err_set(ERR_FORMAT, "%s/%s: the server gave no ETag for part %d", p->bucket, p->name, number);
    if (rc >= 0)
        str_add_format(&p->list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", number, c.etag);
    s3_call_deinit(&c);
    return rc;
}

static int end(Put *p, int whole)
{
    char query[600];
    StrBuf body;
    str_init(&body);
    str_add_format(&body, "<CompleteMultipartUpload>%s</CompleteMultipartUpload>", p->list.data);
    snprintf(query, sizeof query, "uploadId=%s", p->upload);
    S3Call c = {.method = whole ? "POST" : "DELETE", .query = query, .body = whole ? body.data : NULL, .size = whole ? body.len : 0};
    str_init(&c.answer);
    int rc = str_status(&body);
    if (rc >= 0)
        rc = s3_call(p->s, &c, p->bucket, p->name);
    s3_call_deinit(&c);
    str_deinit(&body);
    return rc;
}

static int put_parts(Put *p)
{
    TRY(begin(p));
    int rc = 0, number = 0;
    for (int64_t at = 0; at < p->size && rc >= 0; at += p->part)
        rc = put_part(p, ++number, (size_t)(p->size - at < p->part ? p->size - at : p->part));
    if (rc >= 0)
        rc = check_read(p);
    if (rc >= 0)
        rc = end(p, 1);
    if (rc < 0) {
        char why[600];
        snprintf(why, sizeof why, "%s", err_message());
        end(p, 0); /* the parts would cost money for ever */
        return err_set(rc, "%s", why);
    }
    return 0;
}

/* The object as the server describes it. */
static int confirm(const Put *p)
{
    IoS3Info info;
    TRY(io_s3_head(p->s, p->bucket, p->name, &info));
    if (info.size != p->size || strcmp(info.sha256, p->sha256) != 0)
        return err_set(ERR_IO, "%s/%s: %lld bytes (SHA-256 %.12s) arrived of %lld (%.12s)", p->bucket, p->name, (long long)info.size, info.sha256,
                       (long long)p->size, p->sha256);
    return 0;
}

int io_s3_put(const IoS3 *s, const char *bucket, const char *name, const char *path)
{
    Put p = {.s = s, .bucket = bucket, .name = name, .path = path, .part = s->part, .fd = -1};
    int rc;
    str_init(&p.list);
    TRY_GOTO(io_file_size(&p.size, path));
    TRY_GOTO(hash_file_hex(p.sha256, path));
    snprintf(p.meta, sizeof p.meta, "x-amz-meta-sha256:%s", p.sha256);
    while (p.size / p.part >= MAX_PARTS)
        p.part *= 2;
    TRY_GOTO(hash_create(&p.hash));
    if ((p.fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        rc = err_errno("%s", path);
        goto done;
    }
    if (!(p.buf = malloc((size_t)(p.size < p.part ? p.size : p.part) + 1))) {
        rc = err_set(ERR_NOMEM, "%s: out of memory", path);
        goto done;
    }
    TRY_GOTO(p.size > p.part ? put_parts(&p) : put_whole(&p));
    rc = confirm(&p);
done:
    if (p.fd >= 0)
        close(p.fd);
    free(p.buf);
    hash_destroy(p.hash);
    str_deinit(&p.list);
    return rc;
}

int io_s3_head(const IoS3 *s, const char *bucket, const char *name, IoS3Info *info)
{
    S3Call c = {.method = "HEAD", .query = ""};
    str_init(&c.answer);
    memset(info, 0, sizeof *info);
    int rc = s3_call(s, &c, bucket, name);
    info->size = c.length;
    memcpy(info->sha256, c.sha256, sizeof info->sha256);
    if (c.etag && strlen(c.etag) == 34 && !c.sealed)
        snprintf(info->md5, sizeof info->md5, "%.32s", c.etag + 1);
    s3_call_deinit(&c);
    return rc;
}

static int file_md5(char hex[33], const char *path)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    char *buf = malloc(1 << 20);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    FILE *f = fopen(path, "rb");
    int rc = f ? 0 : err_errno("%s", path);
    if (rc >= 0 && (!buf || !md || !EVP_DigestInit_ex(md, EVP_md5(), NULL)))
        rc = err_set(ERR_NOMEM, "%s: out of memory", path);
    for (size_t n; rc >= 0 && (n = fread(buf, 1, 1 << 20, f)) > 0;)
        EVP_DigestUpdate(md, buf, n);
    if (rc >= 0 && ferror(f))
        rc = err_errno("%s: read", path);
    if (rc >= 0 && EVP_DigestFinal_ex(md, sum, NULL))
        hash_hex(hex, sum, 16);
    if (f)
        fclose(f);
    EVP_MD_CTX_free(md);
    free(buf);
    return rc;
}

int io_s3_same(const IoS3 *s, const char *bucket, const char *name, const char *path)
{
    IoS3Info info;
    int64_t size;
    char hex[HASH_HEX_SIZE];
    TRY(io_file_size(&size, path));
    int rc = io_s3_head(s, bucket, name, &info);
    if (rc == ERR_NOTFOUND)
        return 0;
    TRY(rc);
    if (size != info.size || !info.sha256[0])
        return 0;
    TRY(hash_file_hex(hex, path));
    if (strcmp(hex, info.sha256) != 0)
        return 0;
    if (!info.md5[0])
        return 1;
    TRY(file_md5(hex, path)); /* the metadata says what was to be stored, the ETag what is */
    return strcmp(hex, info.md5) == 0;
}

static int get_once(const IoS3 *s, const char *bucket, const char *name, const char *path)
{
    S3Call c = {.method = "GET", .query = ""};
    uint8_t sum[HASH_SIZE];
    char hex[HASH_HEX_SIZE];
    int rc;
    str_init(&c.answer);
    TRY_GOTO(hash_create(&c.hash));
    TRY_GOTO(io_atomic_open(&c.to, path));
    TRY_GOTO(s3_call(s, &c, bucket, name));
    TRY_GOTO(hash_finish(c.hash, sum));
    hash_hex(hex, sum, HASH_SIZE);
    if (c.sha256[0] && strcmp(c.sha256, hex) != 0) {
        rc = err_set(ERR_IO, "%s/%s: damaged on the way (SHA-256 %.12s, expected %.12s)", bucket, name, hex, c.sha256);
        goto done;
    }
    IoAtomic *to = c.to;
    c.to = NULL;
    rc = io_atomic_commit(to);
done:
    io_atomic_abort(c.to);
    hash_destroy(c.hash);
    s3_call_deinit(&c);
    return rc;
}

int io_s3_get(const IoS3 *s, const char *bucket, const char *name, const char *path)
{
    double pause = s->pause;
    for (int i = 1;; i++) {
        int rc = get_once(s, bucket, name, path);
        if (rc != ERR_IO || i >= s->tries)
            return rc;
        nanosleep(&(struct timespec){(time_t)pause, (long)((pause - (double)(time_t)pause) * 1e9)}, NULL);
        pause = pause < 30 ? 2 * pause : pause;
    }
}

/* ---- listing ---- */

void io_s3_names_free(char **names, int n)
{
    for (int i = 0; names && i < n; i++)
        free(names[i]);
    free(names);
}

/* "a%20b+c" in place. */
static void decode(char *s)
{
    char *to = s;
    for (; *s; s++) {
        unsigned x;
        if (*s == '%' && sscanf(s + 1, "%2x", &x) == 1 && s[1] && s[2]) {
            *to++ = (char)x;
            s += 2;
        } else {
            *to++ = *s == '+' ? ' ' : *s;
        }
    }
    *to = 0;
}

int s3_names_parse(const char *xml, char ***names, int *n)
{
    for (const char *p = xml; (p = strstr(p, "<Key>")) != NULL;) {
        char **more = realloc(*names, (size_t)(*n + 1) * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "out of memory");
        *names = more;
        p += 5;
        TRY(str_format(&more[*n], "%.*s", (int)strcspn(p, "<"), p));
        decode(more[(*n)++]);
    }
    return 0;
}

static int list_page(const IoS3 *s, const char *bucket, const char *prefix, char **token, char ***names, int *n)
{
    char *coded = NULL, *at = NULL, *query = NULL;
    S3Call c = {.method = "GET"};
    int rc;
    str_init(&c.answer);
    TRY_GOTO(io_s3_encode(&coded, prefix, 0));
    if (*token)
        TRY_GOTO(io_s3_encode(&at, *token, 0));
    TRY_GOTO(str_format(&query, "%s%s%sencoding-type=url&list-type=2&prefix=%s", at ? "continuation-token=" : "", at ? at : "", at ? "&" : "", coded));
    c.query = query;
    TRY_GOTO(s3_call(s, &c, bucket, ""));
    TRY_GOTO(s3_names_parse(c.answer.data, names, n));
    const char *next = strstr(c.answer.data, "<NextContinuationToken>");
    free(*token);
    *token = NULL;
    if (next)
        rc = str_format(token, "%.*s", (int)strcspn(next + 23, "<"), next + 23);
done:
    s3_call_deinit(&c);
    free(coded);
    free(at);
    free(query);
    return rc;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int io_s3_list(const IoS3 *s, const char *bucket, const char *prefix, char ***names, int *n)
{
    char *token = NULL;
    int rc;
    *names = NULL;
    *n = 0;
    do
        rc = list_page(s, bucket, prefix, &token, names, n);
    while (rc >= 0 && token);
    free(token);
    if (rc < 0) {
        io_s3_names_free(*names, *n);
        *names = NULL;
        *n = 0;
    } else if (*n) {
        qsort(*names, (size_t)*n, sizeof **names, by_name);
    }
    return rc;
}
