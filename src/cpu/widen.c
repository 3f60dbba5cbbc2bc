#include "cpu/widen.h"

#include "cpu/dnnl.h"

static int is_needed(const Backend *be, Dtype t)
{
    return t == DTYPE_BF16 && !cpu_dnnl_bf16(be);
}

/* x as the op sees it: a float copy at the carver's place where one is needed. */
static OpView widen(const Backend *be, const OpView *x, CpuCarve *c)
{
    OpView v = *x;
    if (!is_needed(be, x->dtype))
        return v;
    v.dtype = DTYPE_F32;
    v.data = cpu_carve(c, (size_t)shape_count(&x->shape) * sizeof(float));
    return v;
}

/* call with widened views in `views`; used: bytes of scratch taken by them. */
static OpCall widen_call(const Backend *be, const OpCall *c, OpView *views, size_t *used)
{
    CpuCarve carve = {c->scratch, 0};
    OpCall w = *c;
    for (int i = 0; i < c->nin + c->nout; i++)
        views[i] = widen(be, i < c->nin ? &c->in[i] : &c->out[i - c->nin], &carve);
    w.in = views;
    w.out = views + c->nin;
    w.scratch = carve.base ? carve.base + carve.used : NULL;
    *used = carve.used;
    return w;
}

size_t cpu_widen_scratch(Backend *be, const BackendOp *op, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    CpuCarve c = {0};
    Meta wide[OP_MAX_IN + OP_MAX_OUT];
    for (int i = 0; i < nin + nout; i++) {
        const Meta *m = i < nin ? &in[i] : &out[i - nin];
        OpView x = {.dtype = m->dtype, .shape = m->shape};
        wide[i] = (Meta){widen(be, &x, &c).dtype, m->shape};
    }
    return c.used + op->scratch(be, attr, wide, nin, wide + nin, nout);
}

int cpu_widen_prepare(Backend *be, const BackendOp *op, const OpCall *c, void **state)
{
    OpView views[OP_MAX_IN + OP_MAX_OUT];
    OpCall bare = *c;
    size_t used;
    bare.scratch = NULL; /* a widened weight is made anew on every run: unknown now */
    OpCall w = widen_call(be, &bare, views, &used);
    return op->prepare(be, &w, state);
}

static int convert(const OpView *to, const OpView *from)
{
    return to->data == from->data ? 0 : dtype_convert(to->data, to->dtype, from->data, from->dtype, shape_count(&to->shape));
}

int cpu_widen_run(Backend *be, const BackendOp *op, const OpCall *c)
{
    OpView views[OP_MAX_IN + OP_MAX_OUT];
    size_t used;
    OpCall w = widen_call(be, c, views, &used);
    if (!used)
        return op->run(be, c);
    for (int i = 0; i < c->nin; i++)
        TRY(convert(&w.in[i], &c->in[i]));
    TRY(op->run(be, &w));
    for (int i = 0; i < c->nout; i++)
        TRY(convert(&c->out[i], &w.out[i]));
    return 0;
}
