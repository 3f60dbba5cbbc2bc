#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "models/inversion.h"

int inversion_save(const char *path, InversionForm form, const char *token, const float *vectors, int n, int width, Dtype to,
                   const IoMeta *meta, int nmeta)
{
    int64_t count = (int64_t)n * width;
    if (n < 1 || width < 1 || !token[0])
        return err_set(ERR_RANGE, "%s: a textual inversion needs a token and at least one vector", path);
    void *data = malloc((size_t)count * dtype_size(to));
    if (!data)
        return err_set(ERR_NOMEM, "%s: out of memory", path);
    int rc = dtype_convert(data, to, vectors, DTYPE_F32, count);
    if (rc >= 0) {
        IoTensor t = {.name = form == INVERSION_DIFFUSERS ? token : "emb_params", .dtype = to, .ndim = 2, .dim = {n, width}, .data = data};
        rc = io_safetensors_write(path, &t, 1, meta, nmeta);
    }
    free(data);
    return rc;
}
