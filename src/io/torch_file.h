/* Files of torch.save (.pt, .pth, .bin; the zip form that torch writes since 1.6) with dictionaries of tensors, as safetensors. */
#ifndef IO_TORCH_FILE_H
#define IO_TORCH_FILE_H

#include "io/safetensors.h"

/* Whether the file is such a one, by its first bytes; 0 also when it cannot be read. */
int io_torch_is(const char *path);
/* Opens it as a set of tensors; *memory: free() after closing the set. Nested dictionaries give names joined by a point
 * ("string_to_param.*"); what is no tensor of F32, F16, BF16 or F64 is left out. ERR_FORMAT, ERR_UNSUPPORTED with what to do. */
int io_torch_open(IoSafetensors **out, void **memory, const char *path);
/* The same from bytes: *out (free()) holds a safetensors file. `name` is for messages. */
int io_torch_convert(void **out, size_t *size, const void *data, size_t n, const char *name);

#endif
