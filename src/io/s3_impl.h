/* One signed request; inside s3*.c. */
#ifndef IO_S3_IMPL_H
#define IO_S3_IMPL_H

#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"
#include "io/s3.h"

typedef struct {
    const char *method;
    const char *query;  /* as in IoS3Request */
    const char *meta;   /* "x-amz-meta-sha256:HEX", or NULL */
    const void *body;   /* [size], or NULL */
    size_t size;
    IoAtomic *to;       /* a 2xx answer goes here and into hash; one try only */
    Hash *hash;
    /* the answer */
    long status;
    StrBuf answer;
    char *etag;         /* owned */
    int sealed;         /* encrypted with a key of the server: the ETag is no MD5 */
    int64_t length;
    char sha256[65];
    char failure[300];
} S3Call;

/* Tries until it works, cannot work or `tries` is used up. 0 only for a 2xx answer. s3_call_deinit in every case. */
int s3_call(const IoS3 *s, S3Call *c, const char *bucket, const char *name);
void s3_call_deinit(S3Call *c);
/* Adds the keys of a page of ListObjectsV2 (encoding-type=url) to names[*n]. */
int s3_names_parse(const char *xml, char ***names, int *n);

#endif
