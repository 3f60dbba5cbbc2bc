/* SHA-256. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

enum { HASH_SIZE = 32, HASH_HEX_SIZE = 65 };

typedef struct Hash Hash;

int hash_create(Hash **out);
void hash_destroy(Hash *h);
int hash_update(Hash *h, const void *data, size_t n);
/* Ends the computation; the object can only be destroyed afterwards. */
int hash_finish(Hash *h, uint8_t out[HASH_SIZE]);

int hash_bytes(uint8_t out[HASH_SIZE], const void *data, size_t n);
/* `length` bytes of a file from `offset`, or fewer where the file ends before; length < 0: to the end. */
int hash_file_range(uint8_t out[HASH_SIZE], const char *path, int64_t offset, int64_t length);
int hash_file(uint8_t out[HASH_SIZE], const char *path);
/* Lower-case hex of n bytes with a closing 0: 2n + 1 characters. */
void hash_hex(char *out, const uint8_t *bytes, size_t n);
/* hash_file as hex. */
int hash_file_hex(char out[HASH_HEX_SIZE], const char *path);

#endif
