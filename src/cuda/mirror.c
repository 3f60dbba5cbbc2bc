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
    int adopted; /* the memory is the caller's, and what it holds is newer than the host's */
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

static int room_for_one(CudaState *st)
{
    if (st->mirror_count < st->mirror_cap)
        return 0;
    int cap = st->mirror_cap ? 2 * st->mirror_cap : 256;
    CudaMirror *p = realloc(st->mirrors, (size_t)cap * sizeof *p);
    if (!p)
        return err_set(ERR_NOMEM, "CUDA backend: out of memory");
    st->mirrors = p;
    st->mirror_cap = cap;
    return 0;
}

int cuda_mirror_adopt(Backend *be, const OpView *host, void *device)
{
    CudaState *st = cuda_state(be);
    if (find(st, host))
        return err_set(ERR_BUSY, "CUDA backend: a parameter that is in use cannot move");
    TRY(room_for_one(st));
    st->mirrors[st->mirror_count++] = (CudaMirror){host->data, device, view_bytes(host), host->version, 1, 1};
    return 0;
}

int cuda_mirror_acquire(Backend *be, const OpView *host, void **device)
{
    CudaState *st = cuda_state(be);
    CudaMirror *m = find(st, host);
    if (!m) {
        CudaMirror fresh = {.host = host->data, .bytes = view_bytes(host)};
        TRY(room_for_one(st));
        TRY(be->alloc(be, &fresh.device, fresh.bytes));
        m = &st->mirrors[st->mirror_count++];
        *m = fresh;
    }
    if (!m->adopted && (!m->users || m->version != host->version)) {
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
    if (!m->adopted)
        be->free(be, m->device, m->bytes);
    *m = st->mirrors[--st->mirror_count];
}

void cuda_mirror_free_all(CudaState *st)
{
    for (int i = 0; i < st->mirror_count; i++)
        if (!st->mirrors[i].adopted)
            (void)cudaFree(st->mirrors[i].device);
    st->mirror_count = 0;
}
