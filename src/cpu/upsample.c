#include <string.h>

#include "cpu/conv.h"
#include "cpu/half.h"

/* Nearest neighbour: source index = floor(dst * in / out). */
typedef struct {
    const OpCall *c;
    int64_t h, w, from_h, from_w, ch; /* of the side written, of the side read */
    size_t es;
} Up;

static void forward_row(void *ctx, int64_t row, int thread)
{
    (void)thread;
    const Up *u = ctx;
    int64_t n = row / u->h, y = row % u->h;
    size_t pixel = (size_t)u->ch * u->es;
    const char *from = (const char *)u->c->in[0].data + (size_t)((n * u->from_h + y * u->from_h / u->h) * u->from_w) * pixel;
    char *to = (char *)u->c->out[0].data + (size_t)(row * u->w) * pixel;
    for (int64_t x = 0; x < u->w; x++)
        memcpy(to + (size_t)x * pixel, from + (size_t)(x * u->from_w / u->w) * pixel, pixel);
}

/* First dst index that reads source i (or a later one). */
static int64_t first_of(int64_t i, int64_t in, int64_t out)
{
    return cpu_ceil_div(i * out, in);
}

static float load(const void *p, int64_t i, Dtype t)
{
    return t == DTYPE_BF16 ? bf16_to_float(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void backward_pixel(const Up *u, int64_t to, int64_t n, int64_t y0, int64_t y1, int64_t x0, int64_t x1)
{
    const void *dy = u->c->in[0].data;
    void *dx = u->c->out[0].data;
    Dtype t = u->c->in[0].dtype;
    for (int64_t ch = 0; ch < u->ch; ch++) {
        double wide = 0;
        float sum = 0;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++) {
                int64_t i = ((n * u->from_h + y) * u->from_w + x) * u->ch + ch;
                if (t == DTYPE_F64)
                    wide += ((const double *)dy)[i];
                else
                    sum += load(dy, i, t);
            }
        if (t == DTYPE_F64)
            ((double *)dx)[to * u->ch + ch] = wide;
        else if (t == DTYPE_BF16)
            ((uint16_t *)dx)[to * u->ch + ch] = bf16_from_float(sum);
        else
            ((float *)dx)[to * u->ch + ch] = sum;
    }
}

static void backward_row(void *ctx, int64_t row, int thread)
{
    (void)thread;
    const Up *u = ctx;
    int64_t n = row / u->h, y = row % u->h;
    int64_t y0 = first_of(y, u->h, u->from_h), y1 = first_of(y + 1, u->h, u->from_h);
    for (int64_t x = 0; x < u->w; x++)
        backward_pixel(u, row * u->w + x, n, y0, y1, first_of(x, u->w, u->from_w), first_of(x + 1, u->w, u->from_w));
}

static int run(Backend *be, const OpCall *c, CpuTask task)
{
    const int64_t *to = c->out[0].shape.dim, *from = c->in[0].shape.dim;
    size_t es = dtype_size(c->in[0].dtype);
    Up u = {c, to[1], to[2], from[1], from[2], to[3], es};
    int64_t most = shape_count(&c->out[0].shape) + shape_count(&c->in[0].shape);
    if (c->in[0].dtype != DTYPE_F64 && c->in[0].dtype != DTYPE_F32 && c->in[0].dtype != DTYPE_BF16)
        return cpu_op_unsupported(c, c->in[0].dtype);
    cpu_parallel_tasks(be, to[0] * to[1], most * (int64_t)es, task, &u);
    return 0;
}

static int forward(Backend *be, const OpCall *c)
{
    return run(be, c, forward_row);
}

static int backward(Backend *be, const OpCall *c)
{
    return run(be, c, backward_row);
}

/* ---- convolutions that read an image brought to another size ---- */

static Shape enlarged(const OpAttr *a, const Shape *x)
{
    Shape s = *x;
    s.dim[1] = a->up[0];
    s.dim[2] = a->up[1];
    return s;
}

static size_t enlarged_bytes(const OpAttr *a, Dtype t, const Shape *x)
{
    Shape s = enlarged(a, x);
    return ((size_t)shape_count(&s) * dtype_size(t) + 63) / 64 * 64;
}

size_t cpu_enlarged_scratch(Backend *be, const BackendOp *op, int image, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    Meta m[OP_MAX_IN];
    if (!attr->up[0])
        return op->scratch(be, attr, in, nin, out, nout);
    memcpy(m, in, (size_t)nin * sizeof *m);
    m[image].shape = enlarged(attr, &in[image].shape);
    return enlarged_bytes(attr, in[image].dtype, &in[image].shape) + op->scratch(be, attr, m, nin, out, nout);
}

/* c on the enlarged image, which lies in front of the scratch. */
static OpCall enlarged_call(const OpCall *c, int image, OpView *in)
{
    OpCall e = *c;
    memcpy(in, c->in, (size_t)c->nin * sizeof *in);
    in[image].shape = enlarged(c->attr, &c->in[image].shape);
    in[image].data = c->scratch;
    e.in = in;
    e.scratch = (char *)c->scratch + enlarged_bytes(c->attr, c->in[image].dtype, &c->in[image].shape);
    return e;
}

int cpu_enlarged_prepare(Backend *be, const BackendOp *op, int image, const OpCall *c, void **state)
{
    OpView in[OP_MAX_IN];
    if (!c->attr->up[0])
        return op->prepare(be, c, state);
    OpCall e = enlarged_call(c, image, in);
    in[image].data = NULL; /* not there yet */
    return op->prepare(be, &e, state);
}

int cpu_enlarged_run(Backend *be, const BackendOp *op, int image, const OpCall *c)
{
    OpView in[OP_MAX_IN];
    if (!c->attr->up[0])
        return op->run(be, c);
    OpCall e = enlarged_call(c, image, in);
    OpCall up = {.kind = OP_UPSAMPLE_NEAREST, .in = &c->in[image], .out = &in[image], .nin = 1, .nout = 1};
    TRY(forward(be, &up));
    return op->run(be, &e);
}

void cpu_upsample_register(Backend *be)
{
    be->op[OP_UPSAMPLE_NEAREST].run = forward;
    be->op[OP_UPSAMPLE_NEAREST_BWD].run = backward;
}
