/* safetensors files: one file, or the shards named by an index, as one set of tensors. Files are mapped, not read.
 * Format: 8-byte little-endian N, N bytes of JSON, data. Every rule of the format is checked on opening: offsets
 * contiguous from 0 without holes or overlap up to the end of the file, sizes equal to shape times dtype, no duplicate
 * keys, N <= 100 MB. */
#ifndef IO_SAFETENSORS_H
#define IO_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "ops/op.h"

enum { IO_TENSOR_MAX_DIM = 8 };

/* A tensor in a set (borrowed from it) or one to be written. Row-major. */
typedef struct {
    const char *name;
    Dtype dtype;
    int ndim;                       /* 0: scalar */
    int64_t dim[IO_TENSOR_MAX_DIM];
    const void *data;               /* aligned to the dtype's size */
    size_t bytes;
} IoTensor;

typedef struct {
    const char *key, *value;
} IoMeta;

typedef struct IoSafetensors IoSafetensors;

/* `path`: a .safetensors file, or an index (*.json) whose shards lie in the same folder. *out: io_safetensors_close.
 * Errors name the file and the tensor: ERR_FORMAT, ERR_NOTFOUND, ERR_IO, ERR_UNSUPPORTED (more than 8 dimensions). */
int io_safetensors_open(IoSafetensors **out, const char *path);
/* The first that exists in `dir`, for each base in `bases` (ending with NULL): base.safetensors, its index, and the same
 * with a variant: `variant` first when given ("fp16"), otherwise plain first, then fp16, bf16. ERR_NOTFOUND lists what
 * was looked for. */
int io_safetensors_open_model(IoSafetensors **out, const char *dir, const char *const *bases, const char *variant);
/* The same checks on bytes in memory, which must outlive the set. */
int io_safetensors_open_memory(IoSafetensors **out, const void *data, size_t size, const char *name);
void io_safetensors_close(IoSafetensors *s);

int io_safetensors_count(const IoSafetensors *s);
/* Names sorted by byte; borrowed. */
const char *io_safetensors_name(const IoSafetensors *s, int i);
/* The dtype as the file writes it, for instance "F8_E4M3". */
const char *io_safetensors_dtype(const IoSafetensors *s, int i);
/* Where the set came from, for messages. */
const char *io_safetensors_path(const IoSafetensors *s);
/* Place of a name, or -1. */
int io_safetensors_find(const IoSafetensors *s, const char *name);
/* ERR_UNSUPPORTED where the dtype is not in Dtype. Data is copied (once, kept by the set) only where the file does not
 * align it. Thread-safe. */
int io_safetensors_at(IoSafetensors *s, int i, IoTensor *out);
/* Gives the memory behind tensor i (all tensors: i < 0) back to the system until it is read again. Files only; for data that is
 * no longer used, or was copied. */
void io_safetensors_release(const IoSafetensors *s, int i);
/* Has the system read the files into its cache, so that first use finds them there. May take as long as reading; thread-safe. */
void io_safetensors_ahead(const IoSafetensors *s);
/* By name; ERR_NOTFOUND "FILE: tensor 'x' is missing". */
int io_safetensors_get(IoSafetensors *s, const char *name, IoTensor *out);
/* Header metadata of the (first) file; NULL when absent. Borrowed. */
const char *io_safetensors_meta(const IoSafetensors *s, const char *key);
int io_safetensors_meta_count(const IoSafetensors *s);
IoMeta io_safetensors_meta_at(const IoSafetensors *s, int i); /* sorted by key */
/* Total bytes of tensor data. */
int64_t io_safetensors_bytes(const IoSafetensors *s);

/* Shape with at most 4 dimensions; ERR_SHAPE otherwise. */
int io_tensor_meta(const IoTensor *t, Meta *out);

/* Writes the bytes that the safetensors library writes (safetensors/src/tensor.rs prepare): tensors by dtype rank
 * descending (I64 F64 F32 I32 BF16 F16 U8), then by name; compact JSON padded with spaces to 8; metadata sorted by key.
 * Atomic. `bytes` of the tensors is ignored. ERR_FORMAT: duplicate or reserved names, not UTF-8. */
int io_safetensors_write(const char *path, const IoTensor *t, int count, const IoMeta *meta, int meta_count);

/* The hashes that kohya's scripts put into a LoRA's metadata (precalculate_safetensors_hashes), of the file that would be
 * written with only those `meta` whose key begins with "ss_": sshs_model_hash = SHA-256 of all after the header,
 * sshs_legacy_hash = first 8 hex digits of SHA-256 of 0x10000 bytes from 0x100000 (of what the file has there). */
int io_safetensors_kohya_hashes(char model_hash[65], char legacy_hash[9], const IoTensor *t, int count, const IoMeta *meta,
                                int meta_count);

#endif
