/* S3-compatible object storage by libcurl: PUT (also in parts), GET, HEAD, LIST, signed with AWS Signature Version 4.
 * Every upload carries its SHA-256, which the server or, where it does not look, the comparison afterwards holds against what arrived.
 * Failures that may pass (no connection, 5xx, 429, "SlowDown") are tried again with growing pauses. Not collective. */
#ifndef IO_S3_H
#define IO_S3_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *endpoint;  /* "https://s3.eu-central-1.amazonaws.com", "http://127.0.0.1:9000": the bucket is put into the path */
    char *region;
    char *key, *secret, *token; /* token: "" or of temporary credentials */
    int64_t part;    /* bytes of one part of a multipart upload; larger files are sent in parts */
    int tries;       /* of every request */
    double pause;    /* seconds before the second try; doubles */
} IoS3;

/* From AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION (us-east-1), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
 * AWS_SESSION_TOKEN; ATELIER_S3_PART (bytes), ATELIER_S3_TRIES. ERR_NOTFOUND names the variable that is missing. io_s3_deinit in every case. */
int io_s3_init(IoS3 *s);
void io_s3_deinit(IoS3 *s);

/* "s3://bucket/some/prefix": both are the caller's; no slash at either end of the prefix. ERR_FORMAT. */
int io_s3_url(const char *url, char **bucket, char **prefix);

/* Uploads a file; with more than `part` bytes in parts, and an upload that fails is aborted. The file's SHA-256 is kept as metadata
 * x-amz-meta-sha256. The object is there whole or not at all. ERR_BUSY when the file changes meanwhile. */
int io_s3_put(const IoS3 *s, const char *bucket, const char *name, const char *path);
/* Downloads to a file, under its final name only when whole and when it has the SHA-256 of the metadata (where there is one).
 * ERR_NOTFOUND when there is no such object. */
int io_s3_get(const IoS3 *s, const char *bucket, const char *name, const char *path);
typedef struct {
    int64_t size;
    char sha256[65]; /* of the metadata; "" where there is none */
    char md5[33];    /* of what is stored; "" where the ETag does not tell (sent in parts, encrypted) */
} IoS3Info;
/* ERR_NOTFOUND when there is no such object. */
int io_s3_head(const IoS3 *s, const char *bucket, const char *name, IoS3Info *info);
/* Whether the object has the size, the SHA-256 and, where its ETag is one, the MD5 of a file. 1, 0, or an error; 0 when there is none. */
int io_s3_same(const IoS3 *s, const char *bucket, const char *name, const char *path);
/* Names of all objects that begin with `prefix`, sorted; io_s3_names_free. */
int io_s3_list(const IoS3 *s, const char *bucket, const char *prefix, char ***names, int *n);
void io_s3_names_free(char **names, int n);

/* ---- the signature, for tests ---- */
typedef struct {
    const char *method, *host;
    const char *path;    /* URI-encoded once, with its '/' */
    const char *query;   /* "", or sorted "a=1&b=" with encoded values */
    const char *payload; /* SHA-256 of the body in hex */
    const char *time;    /* 20150830T123600Z */
    const char *const *header; /* more "name: value", lower case, sorted among x-amz-... ; NULL at the end; may be NULL */
} IoS3Request;
/* Value of the Authorization header (AWS Signature Version 4, service s3). *out is the caller's. */
int io_s3_authorization(char **out, const IoS3 *s, const IoS3Request *r);
/* RFC 3986: all but letters, digits and -._~ as %XX; with `slash`, '/' stays. *out is the caller's. */
int io_s3_encode(char **out, const char *text, int slash);

#endif
