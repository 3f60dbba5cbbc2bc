#include "cpu/arith.h"
#include "cpu/simd_reduce.h"

typedef struct {
    const void *x, *y;
    void *out;
    float factor;
    int op, bf;
} FlatArg;

enum { FLAT_ADD, FLAT_MUL, FLAT_SCALE };

INLINE void flat_loop(const FlatArg *a, int64_t begin, int64_t end, int op, int bf)
{
    for (int64_t i = begin; i < end; i += VL) {
        int n = lanes_at(i, end);
        vf x = vt_load(a->x, i, n, bf);
        if (op == FLAT_SCALE)
            x *= vf_set(a->factor);
        else if (op == FLAT_ADD)
            x += vt_load(a->y, i, n, bf);
        else
            x *= vt_load(a->y, i, n, bf);
        vt_store(a->out, i, x, n, bf);
    }
}

static void flat_piece(void *p, int64_t begin, int64_t end)
{
    const FlatArg *a = p;
    switch (a->op * 2 + a->bf) {
    case FLAT_ADD * 2: flat_loop(a, begin, end, FLAT_ADD, 0); break;
    case FLAT_ADD * 2 + 1: flat_loop(a, begin, end, FLAT_ADD, 1); break;
    case FLAT_MUL * 2: flat_loop(a, begin, end, FLAT_MUL, 0); break;
    case FLAT_MUL * 2 + 1: flat_loop(a, begin, end, FLAT_MUL, 1); break;
    case FLAT_SCALE * 2: flat_loop(a, begin, end, FLAT_SCALE, 0); break;
    default: flat_loop(a, begin, end, FLAT_SCALE, 1); break;
    }
}

int CPU_FN(cpu_add)(Backend *be, const OpCall *c)
{
    FlatArg a = {c->in[0].data, c->in[1].data, c->out[0].data, 0, FLAT_ADD, is_bf16(&c->in[0])};
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 12, flat_piece, &a);
    return 0;
}

int CPU_FN(cpu_mul)(Backend *be, const OpCall *c)
{
    FlatArg a = {c->in[0].data, c->in[1].data, c->out[0].data, 0, FLAT_MUL, is_bf16(&c->in[0])};
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 12, flat_piece, &a);
    return 0;
}

int CPU_FN(cpu_scale)(Backend *be, const OpCall *c)
{
    float s = c->attr->scale;
    if (c->nin > 1)
        s *= *(const float *)c->in[1].data;
    FlatArg a = {c->in[0].data, NULL, c->out[0].data, s, FLAT_SCALE, is_bf16(&c->in[0])};
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 8, flat_piece, &a);
    return 0;
}

typedef struct {
    ArithBcast g;
    const void *x, *v;
    void *out;
    int64_t rows_per_task;
    int bf, v_bf;
} BcastArg;

INLINE void add_bcast_rows(const BcastArg *a, int64_t r0, int64_t r1, int bf, int v_bf)
{
    const int64_t ch = a->g.channels;
    for (int64_t r = r0; r < r1; r++) {
        int64_t v = arith_bcast_row(&a->g, r) * ch;
        for (int64_t c = 0; c < ch; c += VL) {
            int n = lanes_at(c, ch);
            vf y = vt_load(a->x, r * ch + c, n, bf) + vt_load(a->v, v + c, n, v_bf);
            vt_store(a->out, r * ch + c, y, n, bf);
        }
    }
}

static void add_bcast_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const BcastArg *a = p;
    int64_t rows = a->g.items * a->g.middle, r0 = task * a->rows_per_task;
    int64_t r1 = r0 + a->rows_per_task < rows ? r0 + a->rows_per_task : rows;
    if (!a->bf)
        add_bcast_rows(a, r0, r1, 0, 0);
    else if (a->v_bf)
        add_bcast_rows(a, r0, r1, 1, 1);
    else
        add_bcast_rows(a, r0, r1, 1, 0);
}

int CPU_FN(cpu_add_bcast)(Backend *be, const OpCall *c)
{
    BcastArg a = {arith_bcast(&c->in[0].shape, c->attr->bcast), c->in[0].data, c->in[1].data, c->out[0].data, 0,
                  is_bf16(&c->in[0]), is_bf16(&c->in[1])};
    int64_t rows = a.g.items * a.g.middle;
    a.rows_per_task = cpu_chunk_rows(a.g.channels);
    cpu_parallel_tasks(be, cpu_ceil_div(rows, a.rows_per_task), rows * a.g.channels * 8, add_bcast_task, &a);
    return 0;
}

typedef struct {
    ArithSum g;
    const void *x;
    void *out;
    float *part; /* [items][chunks][channels] */
    int bf, out_bf;
} SumArg;

static void sum_chunk_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const SumArg *a = p;
    int64_t item = task / a->g.chunks, chunk = task % a->g.chunks, per = cpu_chunk_rows(a->g.channels);
    int64_t r0 = chunk * per, r1 = r0 + per < a->g.rows ? r0 + per : a->g.rows;
    const void *x = t_at(a->x, item * a->g.rows * a->g.channels, a->bf);
    float *sum = a->part + task * a->g.channels;
    if (a->bf)
        reduce_columns(x, r0, r1, a->g.channels, sum, 1);
    else
        reduce_columns(x, r0, r1, a->g.channels, sum, 0);
}

static void sum_finish_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const SumArg *a = p;
    const int64_t ch = a->g.channels, item = task / a->g.blocks, c0 = task % a->g.blocks * 64;
    const int n = ch - c0 < 64 ? (int)(ch - c0) : 64;
    double sum[64];
    reduce_partials(a->part + item * a->g.chunks * ch + c0, a->g.chunks, ch, n, sum);
    for (int j = 0; j < n; j++)
        t_store(a->out, item * ch + c0 + j, (float)sum[j], a->out_bf);
}

/* x[N, L*C] summed over N, for each of the L*C elements in item order. */
static void sum_items_flat(void *p, int64_t begin, int64_t end)
{
    const SumArg *a = p;
    for (int64_t i = begin; i < end; i += VL) {
        int n = lanes_at(i, end);
        vf s = vf_zero();
        for (int64_t k = 0; k < a->g.items; k++)
            s += vt_load(a->x, k * a->g.rows * a->g.channels + i, n, a->bf);
        vt_store(a->out, i, s, n, a->out_bf);
    }
}

int CPU_FN(cpu_sum_bcast)(Backend *be, const OpCall *c)
{
    SumArg a = {arith_sum(&c->in[0].shape, c->attr->bcast), c->in[0].data, c->out[0].data, c->scratch,
                is_bf16(&c->in[0]), is_bf16(&c->out[0])};
    int64_t count = a.g.items * a.g.rows * a.g.channels;
    if (c->attr->bcast == BCAST_ROW) {
        cpu_parallel_flat(be, a.g.rows * a.g.channels, 4 * (a.g.items + 1), sum_items_flat, &a);
        return 0;
    }
    cpu_parallel_tasks(be, a.g.items * a.g.chunks, count * 4, sum_chunk_task, &a);
    cpu_parallel_tasks(be, a.g.items * a.g.blocks, a.g.items * a.g.chunks * a.g.channels * 8, sum_finish_task, &a);
    return 0;
}

typedef struct {
    const void *x;
    void *out;
    Dtype from, to;
} CastArg;

INLINE float cast_read(const void *p, int64_t i, Dtype t)
{
    if (t == DTYPE_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == DTYPE_BF16 ? bf16_to_float(h) : f16_to_float(h);
}

INLINE void cast_write(void *p, int64_t i, float v, Dtype t)
{
    if (t == DTYPE_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = t == DTYPE_BF16 ? bf16_from_float(v) : f16_from_float(v);
}

INLINE void cast_loop(const CastArg *a, int64_t begin, int64_t end, Dtype from, Dtype to)
{
    int64_t i = begin;
    for (; i + VL <= end; i += VL) {
        vf v = from == DTYPE_F32    ? vf_load((const float *)a->x + i)
               : from == DTYPE_BF16 ? vf_load_bf16((const uint16_t *)a->x + i)
                                    : vf_load_f16((const uint16_t *)a->x + i);
        if (to == DTYPE_F32)
            vf_store((float *)a->out + i, v);
        else if (to == DTYPE_BF16)
            vf_store_bf16((uint16_t *)a->out + i, v);
        else
            vf_store_f16((uint16_t *)a->out + i, v);
    }
    for (; i < end; i++)
        cast_write(a->out, i, cast_read(a->x, i, from), to);
}

static void cast_flat(void *p, int64_t begin, int64_t end)
{
    const CastArg *a = p;
    if (a->from == DTYPE_F32)
        a->to == DTYPE_BF16 ? cast_loop(a, begin, end, DTYPE_F32, DTYPE_BF16)
                            : cast_loop(a, begin, end, DTYPE_F32, DTYPE_F16);
    else if (a->to == DTYPE_F32)
        a->from == DTYPE_BF16 ? cast_loop(a, begin, end, DTYPE_BF16, DTYPE_F32)
                              : cast_loop(a, begin, end, DTYPE_F16, DTYPE_F32);
    else
        a->to == DTYPE_F16 ? cast_loop(a, begin, end, DTYPE_BF16, DTYPE_F16)
                           : cast_loop(a, begin, end, DTYPE_F16, DTYPE_BF16);
}

int CPU_FN(cpu_cast)(Backend *be, const OpCall *c)
{
    CastArg a = {c->in[0].data, c->out[0].data, c->in[0].dtype, c->out[0].dtype};
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 6, cast_flat, &a);
    return 0;
}
