#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"

struct Hash {
    EVP_MD_CTX *ctx;
};

int hash_create(Hash **out)
{
    *out = NULL;
    Hash *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(ERR_NOMEM, "out of memory");
    h->ctx = EVP_MD_CTX_new();
    if (!h->ctx || EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        hash_destroy(h);
        return err_set(ERR_BACKEND, "SHA-256 is not available in libcrypto");
    }
    *out = h;
    return 0;
}

void hash_destroy(Hash *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    free(h);
}

int hash_update(Hash *h, const void *data, size_t n)
{
    if (n && EVP_DigestUpdate(h->ctx, data, n) != 1)
        return err_set(ERR_BACKEND, "SHA-256 failed");
    return 0;
}

int hash_finish(Hash *h, uint8_t out[HASH_SIZE])
{
    return EVP_DigestFinal_ex(h->ctx, out, NULL) == 1 ? 0 : err_set(ERR_BACKEND, "SHA-256 failed");
}

int hash_bytes(uint8_t out[HASH_SIZE], const void *data, size_t n)
{
    Hash *h;
    TRY(hash_create(&h));
    int rc = hash_update(h, data, n);
    if (rc == 0)
        rc = hash_finish(h, out);
    hash_destroy(h);
    return rc;
}

static int update_from_fd(Hash *h, int fd, const char *path, int64_t offset, int64_t length)
{
    enum { CHUNK = 1 << 18 };
    unsigned char *buf = malloc(CHUNK);
    int rc = buf ? 0 : err_set(ERR_NOMEM, "out of memory");
    while (rc == 0 && length != 0) {
        size_t want = length < 0 || length > CHUNK ? CHUNK : (size_t)length;
        ssize_t got = pread(fd, buf, want, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            rc = err_errno("%s: read", path);
        if (got <= 0)
            break;
        rc = hash_update(h, buf, (size_t)got);
        offset += got;
        if (length > 0)
            length -= got;
    }
    free(buf);
    return rc;
}

int hash_file_range(uint8_t out[HASH_SIZE], const char *path, int64_t offset, int64_t length)
{
    Hash *h = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno("%s", path);
    int rc = hash_create(&h);
    if (rc == 0)
        rc = update_from_fd(h, fd, path, offset, length);
    if (rc == 0)
        rc = hash_finish(h, out);
    hash_destroy(h);
    close(fd);
    return rc;
}

int hash_file(uint8_t out[HASH_SIZE], const char *path)
{
    return hash_file_range(out, path, 0, -1);
}

void hash_hex(char *out, const uint8_t *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = 0;
}

int hash_file_hex(char out[HASH_HEX_SIZE], const char *path)
{
    uint8_t sum[HASH_SIZE];
    TRY(hash_file(sum, path));
    hash_hex(out, sum, sizeof sum);
    return 0;
}
