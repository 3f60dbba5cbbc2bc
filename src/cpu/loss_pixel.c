/* Losses over latents only: small arrays, so one portable form in double serves every dtype and CPU. */
#include <math.h>

#include "cpu/half.h"
#include "cpu/loss.h"

typedef struct {
    const OpCall *c;
    const OpView *x, *y, *weight, *delta, *mask, *dl;
    LossItems g;
    int64_t width; /* channels: elements per value of the mask */
    OpLoss kind;
    double *part;
} Pixel;

static double load(const OpView *v, int64_t i)
{
    return v->dtype == DTYPE_F64    ? ((const double *)v->data)[i]
           : v->dtype == DTYPE_BF16 ? (double)bf16_to_float(((const uint16_t *)v->data)[i])
                                    : (double)((const float *)v->data)[i];
}

static void store(const OpView *v, int64_t i, double x)
{
    if (v->dtype == DTYPE_F64)
        ((double *)v->data)[i] = x;
    else if (v->dtype == DTYPE_BF16)
        ((uint16_t *)v->data)[i] = bf16_from_float((float)x);
    else
        ((float *)v->data)[i] = (float)x;
}

static double value(OpLoss kind, double d, double c)
{
    switch (kind) {
    case OP_LOSS_L2:
        return d * d;
    case OP_LOSS_L1:
        return fabs(d);
    default: /* sqrt(d^2 + c^2) - c without cancellation */
        return 2 * (kind == OP_LOSS_HUBER ? c : 1) * (d * d / (sqrt(d * d + c * c) + c));
    }
}

static double slope(OpLoss kind, double d, double c)
{
    switch (kind) {
    case OP_LOSS_L2:
        return 2 * d;
    case OP_LOSS_L1:
        return d > 0 ? 1 : d < 0 ? -1 : d;
    default:
        return 2 * (kind == OP_LOSS_HUBER ? c : 1) * d / sqrt(d * d + c * c);
    }
}

static void forward_task(void *ctx, int64_t task, int thread)
{
    (void)thread;
    const Pixel *p = ctx;
    int64_t item = task / p->g.pieces, at = task % p->g.pieces * LOSS_PIECE, base = item * p->g.count;
    int64_t end = at + LOSS_PIECE < p->g.count ? at + LOSS_PIECE : p->g.count;
    double s = 0, c = load(p->delta, item);
    for (int64_t i = base + at; i < base + end; i++)
        s += load(p->mask, i / p->width) * value(p->kind, load(p->x, i) - load(p->y, i), c);
    p->part[task] = s;
}

static void backward_task(void *ctx, int64_t task, int thread)
{
    (void)thread;
    const Pixel *p = ctx;
    int64_t item = task / p->g.pieces, at = task % p->g.pieces * LOSS_PIECE, base = item * p->g.count;
    int64_t end = at + LOSS_PIECE < p->g.count ? at + LOSS_PIECE : p->g.count;
    double c = load(p->delta, item), k = load(p->dl, item) * load(p->weight, item) / (double)p->g.count;
    for (int64_t i = base + at; i < base + end; i++)
        store(&p->c->out[0], i, k * load(p->mask, i / p->width) * slope(p->kind, load(p->x, i) - load(p->y, i), c));
}

static int prepare(Pixel *p, const OpCall *c, int first)
{
    const OpView *in = c->in + first;
    Dtype t = in[0].dtype;
    *p = (Pixel){c, in, in + 1, in + 2, in + 3, in + 4, c->in, loss_items(&in[0].shape), shape_last(&in[0].shape), (OpLoss)c->attr->loss,
                 c->scratch};
    return t == DTYPE_F64 || t == DTYPE_F32 || t == DTYPE_BF16 ? 0 : cpu_op_unsupported(c, t);
}

static int run_pixel_loss(Backend *be, const OpCall *c)
{
    Pixel p;
    TRY(prepare(&p, c, 0));
    cpu_parallel_tasks(be, p.g.items * p.g.pieces, p.g.items * p.g.count * 16, forward_task, &p);
    for (int64_t n = 0; n < p.g.items; n++) {
        double s = 0;
        for (int64_t k = 0; k < p.g.pieces; k++)
            s += p.part[n * p.g.pieces + k];
        store(&c->out[0], n, load(p.weight, n) * s / (double)p.g.count);
    }
    return 0;
}

static int run_pixel_loss_bwd(Backend *be, const OpCall *c)
{
    Pixel p;
    TRY(prepare(&p, c, 1));
    cpu_parallel_tasks(be, p.g.items * p.g.pieces, p.g.items * p.g.count * 16, backward_task, &p);
    return 0;
}

static size_t scratch_pixel(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)attr;
    (void)nin;
    (void)out;
    (void)nout;
    LossItems g = loss_items(&in[0].shape);
    return (size_t)(g.items * g.pieces) * sizeof(double);
}

void cpu_loss_pixel_register(Backend *be)
{
    be->op[OP_PIXEL_LOSS].run = run_pixel_loss;
    be->op[OP_PIXEL_LOSS].scratch = scratch_pixel;
    be->op[OP_PIXEL_LOSS_BWD].run = run_pixel_loss_bwd;
}
