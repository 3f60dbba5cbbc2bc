#include "cpu/simd.h"

/* Each task owns a block of channels of the whole table and adds the rows in index order: no two tasks share an element. */
typedef struct {
    const void *dy;
    const int32_t *id;
    float *table;
    int64_t n, rows, channels;
    int bf;
} EmbedArg;

enum { BLOCK = 64 };

static void embed_bwd_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const EmbedArg *a = p;
    const int64_t ch = a->channels, c0 = task * BLOCK, c1 = c0 + BLOCK < ch ? c0 + BLOCK : ch;
    for (int64_t r = 0; r < a->rows; r++)
        memset(a->table + r * ch + c0, 0, (size_t)(c1 - c0) * sizeof(float));
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t c = c0; c < c1; c += VL) {
            int lanes = lanes_at(c, c1);
            float *t = a->table + a->id[i] * ch + c;
            vf_store_n(t, vf_load_n(t, lanes) + vt_load(a->dy, i * ch + c, lanes, a->bf), lanes);
        }
}

int CPU_FN(cpu_embed_bwd)(Backend *be, const OpCall *c)
{
    EmbedArg a = {c->in[0].data, c->in[1].data, c->out[0].data, shape_count(&c->in[1].shape), c->out[0].shape.dim[0],
                  shape_last(&c->out[0].shape), is_bf16(&c->in[0])};
    cpu_parallel_tasks(be, cpu_ceil_div(a.channels, BLOCK), (a.rows + 2 * a.n) * a.channels * 4, embed_bwd_task, &a);
    return 0;
}
