/* Convolutions in NHWC, shared by conv.c (forward, dx), conv_w.c (dw), conv_f64.c (plain loops) and upsample.c. */
#ifndef CPU_CONV_H
#define CPU_CONV_H

#include "cpu/dnnl.h"

typedef struct {
    int64_t items, ih, iw, ci, oh, ow, co, kh, kw, stride, top, left;
    Dtype type;
} ConvShape;

enum { CONV_MAX_BANDS = 64 };

/* Rows [row, row + rows) of the side that is written and rows [from, from + from_rows) of the side that is read. */
typedef struct {
    int64_t row, rows, from, from_rows, top, bottom;
} ConvBand;

static inline ConvShape conv_shape(const Shape *x, const Shape *w, const Shape *y, const OpAttr *a, Dtype t)
{
    return (ConvShape){x->dim[0], x->dim[1], x->dim[2], x->dim[3], y->dim[1], y->dim[2], y->dim[3],
                       w->dim[2], w->dim[3], a->stride, a->pad[0], a->pad[1], t};
}

/* A 1x1 convolution of stride 1 is a linear layer over pixels. */
static inline int conv_is_linear(const ConvShape *s)
{
    return s->kh == 1 && s->kw == 1 && s->stride == 1 && s->oh == s->ih && s->ow == s->iw && s->top == 0 && s->left == 0;
}

/* Output rows of nothing but padding are refused: oneDNN 2.6 leaves out bias and sum there. */
static inline int conv_check_padding(OpKind k, const ConvShape *s, const OpAttr *a)
{
    for (int i = 0; i < 4; i++)
        if (a->pad[i] >= (i % 2 ? s->kw : s->kh))
            return err_set(ERR_UNSUPPORTED, "%s: padding of %d, expected less than the kernel's %d", op_name(k), (int)a->pad[i],
                           (int)(i % 2 ? s->kw : s->kh));
    return 0;
}

static inline double conv_flops(const ConvShape *s)
{
    return 2.0 * (double)(s->items * s->oh * s->ow) * (double)(s->ci * s->co) * (double)(s->kh * s->kw);
}

/* Output rows [row, row + rows) and the input rows they need. */
static inline ConvBand conv_band_out(const ConvShape *s, int64_t row, int64_t rows)
{
    int64_t lo = row * s->stride - s->top, hi = (row + rows - 1) * s->stride - s->top + s->kh;
    int64_t from = lo > 0 ? lo : 0, end = hi < s->ih ? hi : s->ih;
    return (ConvBand){row, rows, from, end - from, from - lo, hi - end};
}

/* The tile of a convolution over `band` (a band of output rows) of `items` images. */
static inline CpuTileKey conv_key(const ConvShape *s, CpuTileKind kind, const ConvBand *band, int64_t items)
{
    int64_t right = (s->ow - 1) * s->stride + s->kw - s->iw - s->left;
    return (CpuTileKey){.kind = kind, .a = s->type, .b = s->type, .c = s->type, .items = items, .ih = band->from_rows,
                        .iw = s->iw, .ci = s->ci, .oh = band->rows, .ow = s->ow, .co = s->co, .kh = s->kh, .kw = s->kw,
                        .stride = s->stride, .top = band->top, .left = s->left, .bottom = band->bottom,
                        .right = right > 0 ? right : 0};
}

static inline size_t conv_size_of(Dtype t)
{
    return t == DTYPE_BF16 ? 2 : t == DTYPE_F64 ? 8 : 4;
}

/* Plain loops in double. */
void cpu_conv_f64(const OpCall *c);
void cpu_conv_bwd_x_f64(const OpCall *c);
void cpu_conv_bwd_w_f64(const OpCall *c);

/* Defines op##_up: op, on a copy of the input `image` brought to attr.up where that is set (upsample.c). */
size_t cpu_enlarged_scratch(Backend *be, const BackendOp *op, int image, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout);
int cpu_enlarged_prepare(Backend *be, const BackendOp *op, int image, const OpCall *c, void **state);
int cpu_enlarged_run(Backend *be, const BackendOp *op, int image, const OpCall *c);
#define CPU_ENLARGED(op, image)                                                                                     \
    static size_t op##_up_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout) \
    {                                                                                                               \
        return cpu_enlarged_scratch(be, &op, image, attr, in, nin, out, nout);                                      \
    }                                                                                                               \
    static int op##_up_prepare(Backend *be, const OpCall *c, void **state)                                          \
    {                                                                                                               \
        return cpu_enlarged_prepare(be, &op, image, c, state);                                                      \
    }                                                                                                               \
    static int op##_up_run(Backend *be, const OpCall *c)                                                            \
    {                                                                                                               \
        return cpu_enlarged_run(be, &op, image, c);                                                                 \
    }                                                                                                               \
    static const BackendOp op##_up = {op##_up_scratch, op##_up_prepare, op##_up_run, op##_release}

void cpu_conv_w_register(Backend *be);
void cpu_upsample_register(Backend *be);

#endif
