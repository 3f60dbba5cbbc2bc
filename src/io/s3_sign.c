#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"
#include "io/s3.h"

int io_s3_encode(char **out, const char *text, int slash)
{
    StrBuf b;
    str_init(&b);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        int plain = (*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p) || (slash && *p == '/');
        if (plain)
            str_add_char(&b, (char)*p);
        else
            str_add_format(&b, "%%%02X", *p);
    }
    str_add(&b, "");
    int rc = str_take(out, &b);
    str_deinit(&b);
    return rc;
}

static int hmac(uint8_t out[HASH_SIZE], const void *key, size_t n, const char *text)
{
    unsigned size = HASH_SIZE;
    return HMAC(EVP_sha256(), key, (int)n, (const uint8_t *)text, strlen(text), out, &size) ? 0 : err_set(ERR_BACKEND, "HMAC failed");
}

/* Host, x-amz-content-sha256 and x-amz-date, the request's own headers among them in order of their names. */
static void headers(StrBuf *canonical, StrBuf *names, const IoS3 *s, const IoS3Request *r)
{
    char fixed[4][600];
    const char *all[20];
    int n = 0;
    snprintf(fixed[0], sizeof fixed[0], "host:%s", r->host);
    snprintf(fixed[1], sizeof fixed[1], "x-amz-content-sha256:%s", r->payload);
    snprintf(fixed[2], sizeof fixed[2], "x-amz-date:%s", r->time);
    for (int i = 0; i < 3; i++)
        all[n++] = fixed[i];
    for (int i = 0; r->header && r->header[i] && n < 18; i++)
        all[n++] = r->header[i];
    StrBuf token;
    str_init(&token);
    if (s->token[0]) {
        str_add_format(&token, "x-amz-security-token:%s", s->token);
        all[n++] = token.data;
    }
    for (int i = 1; i < n; i++) /* by name */
        for (int k = i; k > 0 && strncmp(all[k], all[k - 1], strcspn(all[k], ":") + 1) < 0; k--) {
            const char *t = all[k];
            all[k] = all[k - 1];
            all[k - 1] = t;
        }
    for (int i = 0; i < n; i++) {
        size_t len = strcspn(all[i], ":");
        const char *value = all[i] + len + 1 + strspn(all[i] + len + 1, " ");
        str_add_bytes(canonical, all[i], len + 1);
        str_add_format(canonical, "%s\n", value);
        str_add(names, i ? ";" : "");
        str_add_bytes(names, all[i], len);
    }
    str_deinit(&token);
}

static int sign(char hex[HASH_HEX_SIZE], const IoS3 *s, const IoS3Request *r, const char *text)
{
    uint8_t key[HASH_SIZE], next[HASH_SIZE];
    char *first, day[9];
    snprintf(day, sizeof day, "%.8s", r->time);
    TRY(str_format(&first, "AWS4%s", s->secret));
    int rc = hmac(key, first, strlen(first), day);
    OPENSSL_cleanse(first, strlen(first));
    free(first);
    const char *const step[] = {s->region, "s3", "aws4_request", text};
    for (int i = 0; i < 4 && rc >= 0; i++) {
        rc = hmac(next, key, sizeof key, step[i]);
        memcpy(key, next, sizeof key);
    }
    if (rc >= 0)
        hash_hex(hex, key, HASH_SIZE);
    return rc;
}

/* https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html */
int io_s3_authorization(char **out, const IoS3 *s, const IoS3Request *r)
{
    StrBuf canonical, names, text;
    char hash[HASH_HEX_SIZE], signature[HASH_HEX_SIZE];
    uint8_t sum[HASH_SIZE];
    int rc;
    str_init(&canonical);
    str_init(&names);
    str_init(&text);
    str_add_format(&canonical, "%s\n%s\n%s\n", r->method, r->path, r->query);
    headers(&canonical, &names, s, r);
    str_add_format(&canonical, "\n%s\n%s", names.data, r->payload);
    TRY_GOTO(str_status(&canonical));
    TRY_GOTO(str_status(&names));
    TRY_GOTO(hash_bytes(sum, canonical.data, canonical.len));
    hash_hex(hash, sum, HASH_SIZE);
    str_add_format(&text, "AWS4-HMAC-SHA256\n%s\n%.8s/%s/s3/aws4_request\n%s", r->time, r->time, s->region, hash);
    TRY_GOTO(str_status(&text));
    TRY_GOTO(sign(signature, s, r, text.data));
    rc = str_format(out, "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/s3/aws4_request, SignedHeaders=%s, Signature=%s", s->key, r->time, s->region,
                    names.data, signature);
done:
    str_deinit(&canonical);
    str_deinit(&names);
    str_deinit(&text);
    return rc;
}
