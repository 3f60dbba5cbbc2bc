#include "io/s3.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "io/file.h"
#include "io/s3_impl.h"

static const int64_t PART_MIN = 5 << 20; /* what S3 takes, but for the last one */
static const long CONNECT_SECONDS = 20, STALL_SECONDS = 60;

static int setting(char **out, const char *const *names, const char *otherwise)
{
    for (int i = 0; names[i]; i++) {
        const char *v = getenv(names[i]);
        if (v && *v)
            return str_copy(out, v);
    }
    if (otherwise)
        return str_copy(out, otherwise);
    return err_set(ERR_NOTFOUND, "object storage: the environment variable %s is not set", names[0]);
}

int io_s3_init(IoS3 *s)
{
    static const char *const endpoint[] = {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", NULL}, *const region[] = {"AWS_REGION", "AWS_DEFAULT_REGION", NULL},
                      *const key[] = {"AWS_ACCESS_KEY_ID", NULL}, *const secret[] = {"AWS_SECRET_ACCESS_KEY", NULL},
                      *const token[] = {"AWS_SESSION_TOKEN", NULL};
    char usual[256];
    memset(s, 0, sizeof *s);
    const char *tries = getenv("ATELIER_S3_TRIES");
    s->tries = tries && atoi(tries) > 0 ? atoi(tries) : 8;
    s->pause = 0.5;
    const char *part = getenv("ATELIER_S3_PART");
    s->part = part ? atoll(part) : (int64_t)64 << 20;
    if (s->part < PART_MIN)
        s->part = PART_MIN;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    TRY(setting(&s->region, region, "us-east-1"));
    TRY(setting(&s->key, key, NULL));
    TRY(setting(&s->secret, secret, NULL));
    TRY(setting(&s->token, token, ""));
    snprintf(usual, sizeof usual, "https://s3.%.200s.amazonaws.com", s->region);
    TRY(setting(&s->endpoint, endpoint, usual));
    for (size_t n = strlen(s->endpoint); n && s->endpoint[n - 1] == '/'; n--)
        s->endpoint[n - 1] = 0;
    if (strncmp(s->endpoint, "http://", 7) != 0 && strncmp(s->endpoint, "https://", 8) != 0)
        return err_set(ERR_FORMAT, "%s: '%s': expected http://HOST or https://HOST", endpoint[0], s->endpoint);
    return 0;
}

void io_s3_deinit(IoS3 *s)
{
    free(s->endpoint);
    free(s->region);
    free(s->key);
    free(s->secret);
    free(s->token);
    memset(s, 0, sizeof *s);
}

int io_s3_url(const char *url, char **bucket, char **prefix)
{
    *bucket = *prefix = NULL;
    if (strncmp(url, "s3://", 5) != 0 || !url[5] || url[5] == '/')
        return err_set(ERR_FORMAT, "'%s': expected s3://BUCKET/PREFIX", url);
    size_t n = strcspn(url + 5, "/");
    const char *rest = url + 5 + n;
    rest += strspn(rest, "/");
    size_t m = strlen(rest);
    while (m && rest[m - 1] == '/')
        m--;
    TRY(str_format(bucket, "%.*s", (int)n, url + 5));
    return str_format(prefix, "%.*s", (int)m, rest);
}

void s3_call_deinit(S3Call *c)
{
    str_deinit(&c->answer);
    free(c->etag);
    c->etag = NULL;
}

static size_t take_body(char *data, size_t size, size_t n, void *ctx)
{
    S3Call *c = ctx;
    n *= size;
    if (c->to && c->status / 100 == 2) {
        if (io_atomic_write(c->to, data, n) < 0 || hash_update(c->hash, data, n) < 0) {
            snprintf(c->failure, sizeof c->failure, "%s", err_message());
            return 0;
        }
        return n;
    }
    if (c->answer.len + n > ((size_t)64 << 20))
        return 0;
    str_add_bytes(&c->answer, data, n);
    return n;
}

static int header_is(const char *line, size_t n, const char *name, char *out, size_t size)
{
    size_t k = strlen(name);
    if (n <= k || strncasecmp(line, name, k) != 0 || line[k] != ':')
        return 0;
    for (k++; k < n && line[k] == ' '; k++)
        ;
    while (n > k && (line[n - 1] == '\r' || line[n - 1] == '\n' || line[n - 1] == ' '))
        n--;
    snprintf(out, size, "%.*s", (int)(n - k), line + k);
    return 1;
}

static size_t take_header(char *data, size_t size, size_t n, void *ctx)
{
    S3Call *c = ctx;
    char text[256];
    n *= size;
    if (n > 12 && strncmp(data, "HTTP/", 5) == 0) {
        const char *space = memchr(data, ' ', n);
        c->status = space ? strtol(space, NULL, 10) : 0;
    } else if (header_is(data, n, "etag", text, sizeof text)) {
        free(c->etag);
        if (str_copy(&c->etag, text) < 0)
            c->etag = NULL;
    } else if (header_is(data, n, "x-amz-server-side-encryption", text, sizeof text)) {
        c->sealed = strncmp(text, "aws:kms", 7) == 0;
    } else if (header_is(data, n, "content-length", text, sizeof text)) {
        c->length = atoll(text);
    } else if (header_is(data, n, "x-amz-meta-sha256", text, sizeof text)) {
        snprintf(c->sha256, sizeof c->sha256, "%.64s", text);
    }
    return n;
}

enum { MD5_SIZE = 16 };

static int body_md5(const S3Call *c, uint8_t sum[MD5_SIZE])
{
    return EVP_Digest(c->body, c->size, sum, NULL, EVP_md5(), NULL) ? 0 : err_set(ERR_BACKEND, "MD5 failed");
}

/* The ETag of what a PUT stored is its MD5. */
static int check_etag(const S3Call *c, const char *url, int *again)
{
    uint8_t sum[MD5_SIZE];
    char hex[2 * MD5_SIZE + 3];
    if (strcmp(c->method, "PUT") != 0 || !c->body || !c->etag || c->sealed || strlen(c->etag) != 2 * MD5_SIZE + 2)
        return 0;
    TRY(body_md5(c, sum));
    hex[0] = '"';
    hash_hex(hex + 1, sum, MD5_SIZE);
    strcpy(hex + 1 + 2 * MD5_SIZE, "\"");
    if (strcmp(hex, c->etag) == 0)
        return 0;
    *again = 1;
    return err_set(ERR_IO, "PUT %s: damaged on the way (the server has %s, not %s)", url, c->etag, hex);
}

static int add_header(struct curl_slist **list, const char *fmt, const char *value)
{
    char *line;
    TRY(str_format(&line, fmt, value));
    struct curl_slist *more = curl_slist_append(*list, line);
    free(line);
    if (!more)
        return err_set(ERR_NOMEM, "out of memory");
    *list = more;
    return 0;
}

static int make_headers(struct curl_slist **list, const IoS3 *s, const S3Call *c, const char *path)
{
    char hex[HASH_HEX_SIZE], now[32], md5[64], *auth = NULL;
    uint8_t sum[HASH_SIZE], digest[MD5_SIZE];
    struct tm tm;
    time_t t = time(NULL);
    TRY(hash_bytes(sum, c->body ? c->body : "", c->size));
    hash_hex(hex, sum, HASH_SIZE);
    strftime(now, sizeof now, "%Y%m%dT%H%M%SZ", gmtime_r(&t, &tm));
    const IoS3Request r = {.method = c->method, .host = strstr(s->endpoint, "//") + 2, .path = path, .query = c->query, .payload = hex, .time = now,
                           .header = c->meta ? (const char *const[]){c->meta, NULL} : NULL};
    TRY(io_s3_authorization(&auth, s, &r));
    int rc = add_header(list, "Authorization: %s", auth);
    free(auth);
    TRY(rc);
    TRY(add_header(list, "x-amz-content-sha256: %s", hex));
    TRY(add_header(list, "x-amz-date: %s", now));
    TRY(add_header(list, "Expect:%s", ""));
    TRY(add_header(list, "Content-Type:%s", ""));
    if (s->token[0])
        TRY(add_header(list, "x-amz-security-token: %s", s->token));
    if (c->meta)
        TRY(add_header(list, "%s", c->meta));
    if (!c->body)
        return 0;
    TRY(body_md5(c, digest)); /* a server that keeps to the protocol refuses a body that arrives otherwise */
    EVP_EncodeBlock((uint8_t *)md5, digest, MD5_SIZE);
    return add_header(list, "Content-MD5: %s", md5);
}

static void set_options(CURL *h, S3Call *c, const char *url, struct curl_slist *list)
{
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, STALL_SECONDS);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, c);
    if (strcmp(c->method, "HEAD") == 0)
        curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    else if (strcmp(c->method, "GET") != 0) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, c->body ? c->body : "");
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->size);
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, c->method);
    }
}

/* One try. *again: whether another one may help. */
static int perform(const IoS3 *s, S3Call *c, const char *path, const char *url, int *again)
{
    struct curl_slist *list = NULL;
    char error[CURL_ERROR_SIZE] = "";
    CURL *h = curl_easy_init();
    c->status = 0;
    c->failure[0] = 0;
    str_clear(&c->answer);
    int rc = h ? make_headers(&list, s, c, path) : err_set(ERR_NOMEM, "out of memory");
    *again = 0;
    if (rc >= 0) {
        set_options(h, c, url, list);
        curl_easy_setopt(h, CURLOPT_ERRORBUFFER, error);
        CURLcode code = curl_easy_perform(h);
        if (c->failure[0]) {
            rc = err_set(ERR_IO, "%s", c->failure);
        } else if (code != CURLE_OK) {
            *again = code != CURLE_URL_MALFORMAT && code != CURLE_UNSUPPORTED_PROTOCOL;
            rc = err_set(ERR_IO, "%s %s: %s", c->method, url, error[0] ? error : curl_easy_strerror(code));
        }
    }
    curl_slist_free_all(list);
    curl_easy_cleanup(h);
    return rc;
}

static int between(const char *text, const char *tag, char *out, size_t size)
{
    char open[64];
    snprintf(open, sizeof open, "<%s>", tag);
    const char *p = strstr(text, open);
    if (!p)
        return 0;
    p += strlen(open);
    snprintf(out, size, "%.*s", (int)strcspn(p, "<"), p);
    return 1;
}

/* The server's answer as an error; *again as above. An answer of 200 may hold an error too (CompleteMultipartUpload). */
static int judge(const S3Call *c, const char *url, int *again)
{
    char code[128] = "", message[300] = "";
    *again = c->status >= 500 || c->status == 429 || c->status == 408;
    if (c->answer.len) {
        between(c->answer.data, "Code", code, sizeof code);
        between(c->answer.data, "Message", message, sizeof message);
    }
    if (c->status / 100 == 2) {
        if (!strstr(c->answer.data, "<Error>"))
            return check_etag(c, url, again);
        *again = 1;
    }
    if (c->status == 403 && !code[0])
        snprintf(message, sizeof message, "key, secret or region are wrong, or they have no right to this bucket");
    if (strcmp(code, "RequestTimeout") == 0 || strcmp(code, "SlowDown") == 0 || strcmp(code, "InternalError") == 0)
        *again = 1;
    return err_set(c->status == 404 ? ERR_NOTFOUND : ERR_IO, "%s %s: %ld%s%s%s%s", c->method, url, c->status, code[0] ? " " : "", code,
                   message[0] ? ": " : "", message);
}

int s3_call(const IoS3 *s, S3Call *c, const char *bucket, const char *name)
{
    char *path = NULL, *url = NULL, *coded = NULL;
    int rc;
    TRY_GOTO(io_s3_encode(&coded, name, 1));
    TRY_GOTO(str_format(&path, "/%s%s%s", bucket, coded[0] ? "/" : "", coded));
    TRY_GOTO(str_format(&url, "%s%s%s%s", s->endpoint, path, c->query[0] ? "?" : "", c->query));
    double pause = s->pause;
    for (int i = 1;; i++) {
        int again;
        rc = perform(s, c, path, url, &again);
        if (rc >= 0)
            rc = judge(c, url, &again);
        if (rc >= 0 || !again || i >= s->tries || c->to) /* a download begins anew in s3_file.c */
            break;
        log_info("%s; again in %.1f s", err_message(), pause);
        nanosleep(&(struct timespec){(time_t)pause, (long)((pause - (double)(time_t)pause) * 1e9)}, NULL);
        pause = pause < 30 ? 2 * pause : pause;
    }
done:
    free(path);
    free(url);
    free(coded);
    return rc;
}
