/* Copies of parameters on the device, shared by all executors that bind the same host array. */
#include <stdlib.h>
#include <string.h>

#include "cuda/internal.h"

struct CudaMirror {
    const void *host;
    void *device;
    size_t bytes;
    uint64_t version;
    int users;
};

static size_t view_bytes(const OpView *v)
{
    return (size_t)shape_count(&v->shape) * dtype_size(v->dtype);
}

static CudaMirror *find(CudaState *st, const OpView *v)
{
    for (int i = 0; i < st->mirror_count; i++)
        if (st->mirrors[i].host == v->data && st->mirrors[i].bytes == view_bytes(v))
            return &st->mirrors[i];
    return NULL;
}

int cuda_mirror_acquire(Backend *be, const OpView *host, void **device)
{
    CudaState *st = cuda_state(be);
    CudaMirror *m = find(st, host);
    if (!m) {
        if (st->mirror_count == st->mirror_cap) {
            int cap = st->mirror_cap ? 2 * st->mirror_cap : 256;
            CudaMirror *p = realloc(st->mirrors, (size_t)cap * sizeof *p);
            if (!p)
                return err_set(ERR_NOMEM, "CUDA backend: out of memory");
            st->mirrors = p;
            st->mirror_cap = cap;
        }
        CudaMirror fresh = {.host = host->data, .bytes = view_bytes(host)};
        TRY(be->alloc(be, &fresh.device, fresh.bytes));
        m = &st->mirrors[st->mirror_count++];
        *m = fresh;
    }
    if (!m->users || m->version != host->version) {
        TRY(be->upload(be, m->device, host->data, m->bytes));
        m->version = host->version;
    }
    m->users++;
    *device = m->device;
    return 0;
}

void cuda_mirror_release(Backend *be, const OpView *host)
{
    CudaState *st = cuda_state(be);
    CudaMirror *m = find(st, host);
    if (!m || --m->users > 0)
        return;
    be->free(be, m->device, m->bytes);
    *m = st->mirrors[--st->mirror_count];
}

void cuda_mirror_free_all(CudaState *st)
{
    for (int i = 0; i < st->mirror_count; i++)
        (void)cudaFree(st->mirrors[i].device);
    st->mirror_count = 0;
}
