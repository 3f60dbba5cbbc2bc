#include "cpu/dnnl.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct CpuDnnl {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    CpuTile **tiles;
    int ntile, room, threads;
    CpuPacked *packed;
};

static int bad(dnnl_status_t s, const char *what)
{
    return err_set(s == dnnl_out_of_memory ? ERR_NOMEM : ERR_BACKEND, "oneDNN: %.*s failed (status %d)",
                   (int)strcspn(what, "("), what, (int)s);
}

#define DNN(e)                            \
    do {                                  \
        dnnl_status_t s_dnn_ = (e);       \
        if (s_dnn_ != dnnl_success)       \
            return bad(s_dnn_, #e);       \
    } while (0)

int cpu_dnnl_get(Backend *be, CpuDnnl **out)
{
    CpuState *st = be->impl;
    if (!st->dnnl) {
        CpuDnnl *d = calloc(1, sizeof *d);
        if (!d)
            return err_set(ERR_NOMEM, "out of memory: oneDNN state");
        st->dnnl = d;
        d->threads = be->threads;
        /* Takes effect only before the process's first primitive; a later refusal is harmless. */
        if (st->isa < CPU_ISA_AVX512)
            (void)dnnl_set_max_cpu_isa(st->isa == CPU_ISA_AVX2 ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_sse41);
        DNN(dnnl_engine_create(&d->engine, dnnl_cpu, 0));
        DNN(dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags));
    }
    *out = st->dnnl;
    return 0;
}

int cpu_dnnl_bf16(const Backend *be)
{
    const CpuState *st = be->impl;
    return st->isa == CPU_ISA_AVX512 && (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

static void tile_destroy(const CpuDnnl *d, CpuTile *t)
{
    if (!t)
        return;
    for (int i = 0; t->mem && i < d->threads * CPU_TILE_MEM; i++)
        if (t->mem[i])
            dnnl_memory_destroy(t->mem[i]);
    if (t->prim)
        dnnl_primitive_destroy(t->prim);
    free(t->mem);
    free(t);
}

static void packed_destroy(CpuPacked *p)
{
    free(p->data);
    free(p);
}

void cpu_dnnl_destroy(CpuState *st)
{
    CpuDnnl *d = st->dnnl;
    if (!d)
        return;
    for (int i = 0; i < d->ntile; i++)
        tile_destroy(d, d->tiles[i]);
    free(d->tiles);
    while (d->packed) {
        CpuPacked *next = d->packed->next;
        packed_destroy(d->packed);
        d->packed = next;
    }
    if (d->stream)
        dnnl_stream_destroy(d->stream);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    free(d);
    st->dnnl = NULL;
}

/* ---- making tiles ---- */

static dnnl_data_type_t type_of(int64_t t)
{
    return t == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

typedef struct {
    dnnl_memory_desc_t a, b, c, bias;
    dnnl_primitive_desc_t pd;
} Making;

static int plain(dnnl_memory_desc_t *md, int64_t type, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride)
{
    dnnl_dims_t dims = {rows, cols}, strides = {row_stride, col_stride};
    DNN(dnnl_memory_desc_init_by_strides(md, 2, dims, type_of(type), strides));
    return 0;
}

static int make_matmul(CpuDnnl *d, const CpuTileKey *k, dnnl_primitive_attr_t attr, Making *m)
{
    dnnl_matmul_desc_t desc;
    TRY(plain(&m->a, k->a, k->m, k->k, k->k, 1));
    TRY(k->trans_b ? plain(&m->b, k->b, k->k, k->n, 1, k->k) : plain(&m->b, k->b, k->k, k->n, k->n, 1));
    TRY(plain(&m->c, k->c, k->m, k->n, k->n, 1));
    if (k->bias)
        TRY(plain(&m->bias, DTYPE_F32, 1, k->n, k->n, 1));
    DNN(dnnl_matmul_desc_init(&desc, &m->a, &m->b, k->bias ? &m->bias : NULL, &m->c));
    DNN(dnnl_primitive_desc_create(&m->pd, &desc, attr, d->engine, NULL));
    return 0;
}

static int conv_forward_desc(const CpuTileKey *k, Making *m, dnnl_prop_kind_t prop, dnnl_convolution_desc_t *desc)
{
    dnnl_dims_t stride = {k->stride, k->stride}, dilate = {0, 0}, before = {k->top, k->left}, after = {k->bottom, k->right};
    DNN(dnnl_dilated_convolution_forward_desc_init(desc, prop, dnnl_convolution_direct, &m->a, &m->b,
                                                   k->bias ? &m->bias : NULL, &m->c, stride, dilate, before, after));
    return 0;
}

static int make_conv(CpuDnnl *d, const CpuTileKey *k, dnnl_primitive_attr_t attr, Making *m)
{
    dnnl_dims_t src = {k->items, k->ci, k->ih, k->iw}, dst = {k->items, k->co, k->oh, k->ow}, wei = {k->co, k->ci, k->kh, k->kw},
                bias = {k->co};
    dnnl_dims_t stride = {k->stride, k->stride}, dilate = {0, 0}, before = {k->top, k->left}, after = {k->bottom, k->right};
    dnnl_convolution_desc_t desc;
    DNN(dnnl_memory_desc_init_by_tag(&m->a, 4, src, type_of(k->a), dnnl_nhwc));
    DNN(dnnl_memory_desc_init_by_tag(&m->c, 4, dst, type_of(k->c), dnnl_nhwc));
    DNN(dnnl_memory_desc_init_by_tag(&m->bias, 1, bias, dnnl_f32, dnnl_x));
    if (k->format)
        m->b = ((const CpuTile *)(intptr_t)k->format)->weight;
    else
        DNN(dnnl_memory_desc_init_by_tag(&m->b, 4, wei, type_of(k->b), dnnl_format_tag_any));
    if (k->kind == CPU_TILE_CONV) {
        TRY(conv_forward_desc(k, m, dnnl_forward_inference, &desc));
        DNN(dnnl_primitive_desc_create(&m->pd, &desc, attr, d->engine, NULL));
        return 0;
    }
    /* A gradient wants the descriptor of its forward pass as a hint. */
    Making f = *m;
    dnnl_primitive_desc_t hint;
    dnnl_data_type_t t = type_of(k->kind == CPU_TILE_CONV_BWD_X ? k->c : k->a);
    DNN(dnnl_memory_desc_init_by_tag(&f.a, 4, src, t, dnnl_nhwc));
    DNN(dnnl_memory_desc_init_by_tag(&f.c, 4, dst, t, dnnl_nhwc));
    DNN(dnnl_memory_desc_init_by_tag(&f.b, 4, wei, t, dnnl_format_tag_any));
    TRY(conv_forward_desc(k, &f, dnnl_forward_training, &desc));
    DNN(dnnl_primitive_desc_create(&hint, &desc, NULL, d->engine, NULL));
    dnnl_status_t s =
        k->kind == CPU_TILE_CONV_BWD_X
            ? dnnl_dilated_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, &m->a, &m->b, &m->c, stride,
                                                               dilate, before, after)
            : dnnl_dilated_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, &m->a, &m->b, NULL, &m->c,
                                                                  stride, dilate, before, after);
    if (s == dnnl_success)
        s = dnnl_primitive_desc_create(&m->pd, &desc, attr, d->engine, hint);
    dnnl_primitive_desc_destroy(hint);
    return s == dnnl_success ? 0 : bad(s, "convolution gradient");
}

static int make_reorder(CpuDnnl *d, const CpuTileKey *k, dnnl_primitive_attr_t attr, Making *m)
{
    const CpuTile *of = (const CpuTile *)(intptr_t)k->format;
    dnnl_memory_desc_t oihw;
    DNN(dnnl_memory_desc_init_by_tag(&oihw, 4, of->weight.dims, type_of(k->to_plain ? k->c : k->a), dnnl_oihw));
    m->a = k->to_plain ? of->weight : oihw;
    m->c = k->to_plain ? oihw : of->weight;
    DNN(dnnl_reorder_primitive_desc_create(&m->pd, &m->a, d->engine, &m->c, d->engine, attr));
    return 0;
}

static int add_sum(dnnl_primitive_attr_t attr)
{
    dnnl_post_ops_t ops;
    DNN(dnnl_post_ops_create(&ops));
    dnnl_status_t s = dnnl_post_ops_append_sum(ops, 1.0f);
    if (s == dnnl_success)
        s = dnnl_primitive_attr_set_post_ops(attr, ops);
    dnnl_post_ops_destroy(ops);
    return s == dnnl_success ? 0 : bad(s, "post-op");
}

/* A row of these kernels is one chain of additions over k whatever the number of rows; others (AMX, the gemm of older
 * machines) choose their blocking by the number of rows. */
static int is_row_free(const char *impl)
{
    return !strcmp(impl, "brg:avx512_core") || !strcmp(impl, "brg:avx512_core_bf16");
}

static int tile_memories(CpuDnnl *d, CpuTile *t, const Making *m, const dnnl_memory_desc_t *work)
{
    t->stream = d->stream;
    t->mem = calloc((size_t)d->threads * CPU_TILE_MEM, sizeof *t->mem);
    if (!t->mem)
        return err_set(ERR_NOMEM, "out of memory: oneDNN tile");
    const dnnl_memory_desc_t *md[CPU_TILE_MEM] = {&m->a, &m->b, &m->c, t->key.bias ? &m->bias : NULL, work};
    for (int i = 0; i < d->threads * CPU_TILE_MEM; i++)
        if (md[i % CPU_TILE_MEM] && md[i % CPU_TILE_MEM]->ndims)
            DNN(dnnl_memory_create(&t->mem[i], md[i % CPU_TILE_MEM], d->engine, DNNL_MEMORY_NONE));
    return 0;
}

static int tile_finish(CpuDnnl *d, CpuTile *t, Making *m)
{
    const CpuTileKey *k = &t->key;
    const char *impl = "";
    DNN(dnnl_primitive_create(&t->prim, m->pd));
    DNN(dnnl_primitive_desc_query(m->pd, dnnl_query_impl_info_str, 0, &impl));
    const dnnl_memory_desc_t *work = dnnl_primitive_desc_query_md(m->pd, dnnl_query_scratchpad_md, 0);
    t->workspace = work ? dnnl_memory_desc_get_size(work) : 0;
    t->row_free = k->kind == CPU_TILE_MATMUL && is_row_free(impl);
    if (k->kind >= CPU_TILE_CONV && k->kind <= CPU_TILE_CONV_BWD_W) {
        int grad = k->kind == CPU_TILE_CONV_BWD_W;
        m->b = *dnnl_primitive_desc_query_md(m->pd, grad ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0);
        t->weight = m->b;
        t->weight_bytes = dnnl_memory_desc_get_size(&t->weight);
    }
    return tile_memories(d, t, m, work);
}

static int tile_create(CpuDnnl *d, const CpuTileKey *key, CpuTile **out)
{
    int rc;
    CpuTile *t = calloc(1, sizeof *t);
    Making m = {0};
    dnnl_primitive_attr_t attr = NULL;
    int threads = omp_get_max_threads();
    /* What oneDNN's heuristics see. Packing copies, so it may use all threads. */
    omp_set_num_threads(key->kind == CPU_TILE_REORDER && !key->to_plain ? d->threads : 1);
    if (!t || dnnl_primitive_attr_create(&attr) != dnnl_success) {
        rc = err_set(ERR_NOMEM, "out of memory: oneDNN tile");
        goto done;
    }
    t->key = *key;
    (void)dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (key->sum)
        TRY_GOTO(add_sum(attr));
    TRY_GOTO(key->kind == CPU_TILE_MATMUL    ? make_matmul(d, key, attr, &m)
             : key->kind == CPU_TILE_REORDER ? make_reorder(d, key, attr, &m)
                                             : make_conv(d, key, attr, &m));
    TRY_GOTO(tile_finish(d, t, &m));
    *out = t;
    t = NULL;
done:
    omp_set_num_threads(threads);
    if (m.pd)
        dnnl_primitive_desc_destroy(m.pd);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    tile_destroy(d, t);
    return rc;
}

int cpu_tile_get(Backend *be, const CpuTileKey *key, CpuTile **out)
{
    CpuDnnl *d;
    TRY(cpu_dnnl_get(be, &d));
    for (int i = 0; i < d->ntile; i++)
        if (!memcmp(&d->tiles[i]->key, key, sizeof *key)) {
            *out = d->tiles[i];
            return 0;
        }
    if (d->ntile == d->room) {
        int room = d->room ? 2 * d->room : 64;
        CpuTile **grown = realloc(d->tiles, (size_t)room * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory: oneDNN tiles");
        d->tiles = grown;
        d->room = room;
    }
    static const char *const kinds[] = {"matmul", "conv2d", "conv2d_bwd_x", "conv2d_bwd_w", "reorder"};
    TRY_CTX(tile_create(d, key, out), "%s tile", kinds[key->kind]);
    d->tiles[d->ntile++] = *out;
    return 0;
}

/* ---- running tiles ---- */

int cpu_tile_run(const CpuTile *t, int thread, const void *a, const void *b, void *c, const void *bias, void *workspace)
{
    static const int arg_of[][3] = {
        [CPU_TILE_MATMUL] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
        [CPU_TILE_CONV] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
        [CPU_TILE_CONV_BWD_X] = {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
        [CPU_TILE_CONV_BWD_W] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST},
        [CPU_TILE_REORDER] = {DNNL_ARG_FROM, 0, DNNL_ARG_TO},
    };
    dnnl_memory_t *mem = t->mem + (size_t)thread * CPU_TILE_MEM;
    dnnl_exec_arg_t args[CPU_TILE_MEM];
    const void *data[CPU_TILE_MEM] = {a, b, c, bias, workspace};
    int n = 0;
    /* Roles follow the forward pass inside (src, weights, dst); the gradients' operands are named by what they read. */
    if (t->key.kind == CPU_TILE_CONV_BWD_X) {
        data[0] = c;
        data[2] = a;
    } else if (t->key.kind == CPU_TILE_CONV_BWD_W) {
        data[1] = c;
        data[2] = b;
    }
    for (int i = 0; i < CPU_TILE_MEM; i++) {
        if (!mem[i])
            continue;
        void *p;
        memcpy(&p, &data[i], sizeof p); /* oneDNN's interface has no const */
        dnnl_memory_set_data_handle(mem[i], p);
        args[n++] = (dnnl_exec_arg_t){i == 3 ? DNNL_ARG_BIAS : i == 4 ? DNNL_ARG_SCRATCHPAD : arg_of[t->key.kind][i], mem[i]};
    }
    DNN(dnnl_primitive_execute(t->prim, t->stream, n, args));
    return 0;
}

typedef struct {
    CpuTileTask fn;
    void *ctx;
    atomic_int rc;
} Loop;

static void loop_task(void *p, int64_t task, int thread)
{
    Loop *l = p;
    int rc = l->fn(l->ctx, task, thread);
    if (rc < 0)
        atomic_store(&l->rc, rc);
}

int cpu_tile_loop(const Backend *be, int64_t tasks, double flops, CpuTileTask fn, void *ctx)
{
    Loop l = {.fn = fn, .ctx = ctx};
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    cpu_parallel_tasks(be, tasks, (int64_t)(flops / 4), loop_task, &l);
    omp_set_num_threads(threads);
    int rc = atomic_load(&l.rc);
    /* The message stayed with the thread that failed. */
    return rc < 0 ? err_set(rc, "oneDNN: a tile failed to run") : 0;
}

/* ---- packed weights ---- */

/* Whether [p, p + bytes) lies in one read-only mapping of a file, so that its pages can be read back at any time. */
static int is_clean_file(const void *p, size_t bytes)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    int yes = 0;
    if (!f)
        return 0;
    while (!yes && fgets(line, sizeof line, f)) {
        unsigned long begin, end, inode;
        char mode[8];
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &begin, &end, mode, &inode) == 4)
            yes = (uintptr_t)p >= begin && (uintptr_t)p + bytes <= end && mode[0] == 'r' && mode[1] == '-' && inode != 0;
    }
    fclose(f);
    return yes;
}

static void drop_pages(const void *p, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) / page * page, end = ((uintptr_t)p + bytes) / page * page;
    if (begin < end && is_clean_file(p, bytes))
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

static int pack(Backend *be, CpuPacked *p, const OpView *w)
{
    int threads = omp_get_max_threads();
    omp_set_num_threads(be->threads);
    int rc = cpu_tile_run(p->reorder, 0, w->data, NULL, p->data, NULL, NULL);
    omp_set_num_threads(threads);
    p->version = w->version;
    return rc;
}

static void *alloc_pages(size_t bytes)
{
    size_t page = bytes >= (1 << 20) ? (size_t)2 << 20 : 64;
    void *p = aligned_alloc(page, (bytes + page - 1) / page * page);
    if (p && page > 64)
        (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

int cpu_packed_get(Backend *be, const CpuTile *t, const OpView *w, CpuPacked **out)
{
    CpuDnnl *d;
    CpuTile *reorder;
    CpuTileKey key = {.kind = CPU_TILE_REORDER, .a = w->dtype, .c = t->key.b, .format = (intptr_t)t};
    TRY(cpu_dnnl_get(be, &d));
    for (CpuPacked *p = d->packed; w->data && p; p = p->next)
        if (p->source == w->data && dnnl_memory_desc_equal(&((const CpuTile *)(intptr_t)p->reorder->key.format)->weight, &t->weight)) {
            p->users++;
            *out = p;
            /* The old user may have outlived its weight, and this one sit at the same address. */
            return w->frozen && p->version == w->version ? 0 : pack(be, p, w);
        }
    TRY(cpu_tile_get(be, &key, &reorder));
    CpuPacked *p = calloc(1, sizeof *p);
    void *data = p ? alloc_pages(t->weight_bytes) : NULL;
    if (!data) {
        free(p);
        return err_set(ERR_NOMEM, "out of memory: %zu bytes of packed weights", t->weight_bytes);
    }
    *p = (CpuPacked){w->data, w->version, reorder, data, t->weight_bytes, 1, d->packed};
    d->packed = p;
    *out = p;
    if (!w->data)
        return 0;
    TRY(pack(be, p, w));
    if (w->frozen)
        drop_pages(w->data, (size_t)shape_count(&w->shape) * dtype_size(w->dtype));
    return 0;
}

int cpu_packed_refresh(Backend *be, CpuPacked *p, const OpView *w)
{
    if (p->source == w->data && p->version == w->version)
        return 0;
    if (p->source)
        p->source = w->data;
    return pack(be, p, w);
}

void cpu_packed_put(Backend *be, CpuPacked *p)
{
    CpuDnnl *d = ((CpuState *)be->impl)->dnnl;
    if (!p || --p->users)
        return;
    for (CpuPacked **at = &d->packed; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    packed_destroy(p);
}
