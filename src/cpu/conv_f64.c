#include <string.h>

#include "cpu/conv.h"

/* Calls fn for every product of the convolution: indices into x, w and y. */
typedef void (*Product)(void *ctx, int64_t x, int64_t w, int64_t y);

/* Inlined, so that fn is too: the gradient checks run through here. */
static inline __attribute__((always_inline)) void each_product(const ConvShape *s, Product fn, void *ctx)
{
    for (int64_t n = 0; n < s->items; n++)
        for (int64_t oy = 0; oy < s->oh; oy++)
            for (int64_t ox = 0; ox < s->ow; ox++)
                for (int64_t ky = 0; ky < s->kh; ky++)
                    for (int64_t kx = 0; kx < s->kw; kx++) {
                        int64_t iy = oy * s->stride - s->top + ky, ix = ox * s->stride - s->left + kx;
                        if (iy < 0 || iy >= s->ih || ix < 0 || ix >= s->iw)
                            continue;
                        int64_t x = ((n * s->ih + iy) * s->iw + ix) * s->ci, y = ((n * s->oh + oy) * s->ow + ox) * s->co;
                        for (int64_t o = 0; o < s->co; o++)
                            for (int64_t i = 0; i < s->ci; i++)
                                fn(ctx, x + i, ((o * s->ci + i) * s->kh + ky) * s->kw + kx, y + o);
                    }
}

typedef struct {
    const double *a, *b;
    double *to;
} Operands;

static inline void to_y(void *ctx, int64_t x, int64_t w, int64_t y)
{
    const Operands *p = ctx;
    p->to[y] += p->a[x] * p->b[w];
}

static inline void to_x(void *ctx, int64_t x, int64_t w, int64_t y)
{
    const Operands *p = ctx;
    p->to[x] += p->a[y] * p->b[w];
}

static inline void to_w(void *ctx, int64_t x, int64_t w, int64_t y)
{
    const Operands *p = ctx;
    p->to[w] += p->a[y] * p->b[x];
}

static void start(const OpCall *c, int bias, int res)
{
    int64_t n = shape_count(&c->out[0].shape), ch = shape_last(&c->out[0].shape);
    const double *b = bias ? c->in[2].data : NULL, *r = res ? c->in[2 + bias].data : NULL;
    double *y = c->out[0].data;
    for (int64_t i = 0; i < n; i++)
        y[i] = (b ? b[i % ch] : 0) + (r ? r[i] : 0);
}

void cpu_conv_f64(const OpCall *c)
{
    ConvShape s = conv_shape(&c->in[0].shape, &c->in[1].shape, &c->out[0].shape, c->attr, DTYPE_F64);
    Operands p = {c->in[0].data, c->in[1].data, c->out[0].data};
    start(c, (c->attr->has & OP_HAS_BIAS) != 0, (c->attr->has & OP_HAS_RES) != 0);
    each_product(&s, to_y, &p);
}

void cpu_conv_bwd_x_f64(const OpCall *c)
{
    ConvShape s = conv_shape(&c->out[0].shape, &c->in[1].shape, &c->in[0].shape, c->attr, DTYPE_F64);
    Operands p = {c->in[0].data, c->in[1].data, c->out[0].data};
    start(c, 0, (c->attr->has & OP_HAS_RES) != 0);
    each_product(&s, to_x, &p);
}

void cpu_conv_bwd_w_f64(const OpCall *c)
{
    ConvShape s = conv_shape(&c->in[1].shape, &c->out[0].shape, &c->in[0].shape, c->attr, DTYPE_F64);
    Operands p = {c->in[0].data, c->in[1].data, c->out[0].data};
    memset(c->out[0].data, 0, (size_t)shape_count(&c->out[0].shape) * sizeof(double));
    each_product(&s, to_w, &p);
}
