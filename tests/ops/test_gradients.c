/* Every gradient rule against central differences in double, through the real graph, planner and executor.
 *
 * For a case y = f(inputs) the scalar is L = sum(seed * y) with a random seed, so that graph_backward seeded with it gives
 * dL. The difference quotient is the five-point one, error O(h^4): with h = 2^-13 its truncation and rounding both stay
 * under 1e-9 of the largest gradient for the smooth functions here. */
#include <float.h>
#include <math.h>

#include "cpu/cpu.h"
#include "graph/exec.h"
#include "ops/cases.h"

enum { CASE_MAX_IN = OP_MAX_IN };
static const double STEP = 1.0 / 8192; /* a power of two: exact also on the F32 inputs, which are multiples of 2^-10 */

typedef OpRef (*CaseBuild)(Graph *g, OpBuild *b, const OpRef *in);

typedef struct {
    OpKind kind;
    const char *in;
    OpAttr attr;
    double range;    /* inputs lie in (-range, range); 0: 1 */
    int ids;         /* integer inputs lie in [0, ids) */
    CaseBuild build; /* NULL: the op itself */
    unsigned fixed;  /* bits of the inputs that are not differentiated */
} Case;

static const int PAD1[4] = {1, 1, 1, 1};

static OpRef build_linear_two_activations(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    return op_linear(b, op_act(b, in[0], ACT_TANH), op_act(b, in[1], ACT_SILU), OP_NONE, OP_NONE);
}

static OpRef build_linear_self(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    return op_linear(b, in[0], in[0], OP_NONE, OP_NONE);
}

/* The input of a linear is also its residual: the residual's storage must not be reused. */
static OpRef build_linear_residual_of_itself(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    OpRef x = op_act(b, in[0], ACT_SILU);
    return op_linear(b, x, in[1], in[2], x);
}

static OpRef build_lora_linear(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    OpRef low = op_linear(b, in[0], in[2], OP_NONE, OP_NONE);
    OpRef up = op_linear(b, low, in[3], OP_NONE, OP_NONE);
    return op_add(b, op_linear(b, in[0], in[1], OP_NONE, OP_NONE), op_scale(b, up, 0.5f, OP_NONE));
}

/* Factors kept in P and cast to T: their gradients need no cast. */
static OpRef build_lora_cast(Graph *g, OpBuild *b, const OpRef *in)
{
    Dtype t = graph_dtype(g);
    OpRef low = op_linear(b, in[0], op_cast(b, in[2], t), OP_NONE, OP_NONE);
    OpRef y = op_linear(b, low, op_cast(b, in[3], t), OP_NONE, OP_NONE);
    return op_linear(b, in[0], in[1], OP_NONE, y);
}

static OpRef build_mul_self(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    return op_mul(b, in[0], op_add(b, in[0], in[0]));
}

static OpRef build_attention_self(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    return op_attention(b, in[0], in[0], in[0], 2, 0.7f, 1);
}

static OpRef build_contrastive(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    OpRef logits = op_linear(b, op_l2_norm(b, in[0]), op_l2_norm(b, in[1]), OP_NONE, OP_NONE);
    return op_xent(b, op_scale(b, logits, 5.0f, OP_NONE), in[2]);
}

static OpRef build_resblock(Graph *g, OpBuild *b, const OpRef *in)
{
    graph_segment_begin(g);
    OpRef h = op_group_norm(b, in[0], in[1], in[2], 2, 1e-5f, ACT_SILU);
    h = op_conv2d(b, h, in[3], OP_NONE, OP_NONE, 1, PAD1);
    h = op_add_bcast(b, h, in[4], BCAST_ITEM);
    h = op_act(b, h, ACT_SILU);
    graph_segment_end(g);
    graph_segment_begin(g);
    OpRef y = op_conv2d(b, h, in[5], in[6], OP_NONE, 1, PAD1);
    y = op_add(b, y, in[0]);
    graph_segment_end(g);
    return y;
}

static OpRef build_transformer(Graph *g, OpBuild *b, const OpRef *in)
{
    graph_segment_begin(g);
    OpRef h = op_layer_norm(b, in[0], in[1], in[2], 1e-5f);
    OpRef q = op_linear(b, h, in[3], OP_NONE, OP_NONE), kv = op_linear(b, in[4], in[5], OP_NONE, OP_NONE);
    OpRef o = op_attention(b, q, op_slice(b, kv, 0, 4), op_slice(b, kv, 4, 4), 2, 0.7f, 0);
    OpRef x = op_add(b, o, in[0]);
    graph_segment_end(g);
    graph_segment_begin(g);
    OpRef f = op_geglu(b, op_linear(b, x, in[6], in[7], OP_NONE));
    graph_segment_end(g);
    return op_add(b, op_concat(b, f, op_slice(b, x, 3, 1)), x);
}

static OpRef build_loss_of_both(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    OpRef x = op_mul(b, in[0], in[1]);
    return op_add(b, op_mse(b, x, in[1], in[2]), op_l1(b, in[0], x, in[2]));
}

static OpRef build_vae_loss(Graph *g, OpBuild *b, const OpRef *in)
{
    (void)g;
    OpRef z = op_gauss_sample(b, in[0], in[1]);
    OpRef up = op_upsample_nearest(b, op_reshape(b, z, SHAPE(2, 1, 3, 2)), 3, 5);
    OpRef sum = op_sum_bcast(b, op_nhwc_to_nchw(b, up), BCAST_ITEM, &(Meta)M(F64, 2, 5));
    OpRef rec = op_sum_bcast(b, op_mul(b, sum, sum), BCAST_ROW, &(Meta)M(F64, 5));
    OpRef kl = op_kl(b, in[0], in[2]);
    return op_add(b, op_slice(b, op_reshape(b, rec, SHAPE(1, 5)), 1, 2), op_reshape(b, kl, SHAPE(1, 2)));
}

#define ACT_CASE(a) {OP_ACT, .in = "f64[2,3,5]", .attr = {.act = a}, .range = 3}

static const Case cases[] = {
    {OP_LINEAR, .in = "f64[2,3,4] f64[5,4]"},
    {OP_LINEAR, .in = "f64[7,4] f64[5,4] f64[5]", .attr = {.has = OP_HAS_BIAS}},
    {OP_LINEAR, .in = "f64[3,4] f64[5,4] f64[3,5]", .attr = {.has = OP_HAS_RES}},
    {OP_LINEAR, .in = "f64[2,2,3,4] f64[5,4] f64[5] f64[2,2,3,5]", .attr = {.has = OP_HAS_BIAS | OP_HAS_RES}},
    {OP_LINEAR, .in = "f64[4] f64[1,4]"},
    {OP_LINEAR, .in = "f64[2,3,4] f64[5,4]", .build = build_linear_two_activations},
    {OP_LINEAR, .in = "f64[3,4]", .build = build_linear_self},
    {OP_LINEAR, .in = "f64[3,4] f64[4,4] f64[4]", .build = build_linear_residual_of_itself},
    {OP_LINEAR, .in = "f64[3,4] f64[5,4] f64[2,4] f64[5,2]", .build = build_lora_linear},
    {OP_CONV2D, .in = "f64[2,4,5,3] f64[2,3,3,3] f64[2]", .attr = {.stride = 1, .pad = {1, 1, 1, 1}, .has = OP_HAS_BIAS}},
    {OP_CONV2D, .in = "f64[1,5,4,2] f64[3,2,3,3]", .attr = {.stride = 1}},
    {OP_CONV2D, .in = "f64[2,5,4,2] f64[3,2,3,3] f64[3]", .attr = {.stride = 2, .pad = {1, 1, 1, 1}, .has = OP_HAS_BIAS}},
    {OP_CONV2D, .in = "f64[1,6,5,2] f64[3,2,3,3] f64[3]", .attr = {.stride = 2, .pad = {0, 0, 1, 1}, .has = OP_HAS_BIAS}},
    {OP_CONV2D, .in = "f64[1,3,5,2] f64[2,2,2,3]", .attr = {.stride = 1, .pad = {2, 0, 1, 3}}},
    {OP_CONV2D, .in = "f64[2,3,4,3] f64[4,3,1,1] f64[4] f64[2,3,4,4]", .attr = {.stride = 1, .has = OP_HAS_BIAS | OP_HAS_RES}},
    {OP_CONV2D, .in = "f64[1,5,5,3] f64[2,3,1,1] f64[1,3,3,2]", .attr = {.stride = 2, .has = OP_HAS_RES}},
    {OP_CONV2D, .in = "f64[2,2,3,3] f64[2,3,3,3] f64[2]", .attr = {.stride = 1, .pad = {1, 1, 1, 1}, .up = {4, 6}, .has = OP_HAS_BIAS}},
    {OP_CONV2D, .in = "f64[1,3,4,2] f64[3,2,3,3]", .attr = {.stride = 2, .pad = {0, 0, 1, 1}, .up = {5, 3}}},
    {OP_UPSAMPLE_NEAREST, .in = "f64[2,3,4,2]", .attr = {.meta = M(F64, 2, 6, 8, 2)}},
    {OP_UPSAMPLE_NEAREST, .in = "f64[1,3,4,2]", .attr = {.meta = M(F64, 1, 7, 5, 2)}},
    {OP_UPSAMPLE_NEAREST, .in = "f64[1,5,4,2]", .attr = {.meta = M(F64, 1, 3, 4, 2)}},
    {OP_GROUP_NORM, .in = "f64[2,2,3,6] f64[6] f64[6]", .attr = {.groups = 3, .eps = 1e-5f}},
    {OP_GROUP_NORM, .in = "f64[2,2,3,6] f64[6] f64[6]", .attr = {.groups = 2, .eps = 1e-5f, .act = ACT_SILU}},
    {OP_GROUP_NORM, .in = "f64[2,5,4] f64[4] f64[4]", .attr = {.groups = 1, .eps = 1e-2f, .act = ACT_SILU}},
    {OP_GROUP_NORM, .in = "f64[2,5,3] f64[3] f64[3]", .attr = {.groups = 3, .eps = 1e-5f}},
    {OP_GROUP_NORM, .in = "f64[3,8] f64[8] f64[8]", .attr = {.groups = 2, .eps = 1e-5f}},
    {OP_LAYER_NORM, .in = "f64[2,3,5] f64[5] f64[5]", .attr = {.eps = 1e-5f}},
    {OP_LAYER_NORM, .in = "f64[7] f64[7] f64[7]", .attr = {.eps = 1e-3f}},
    {OP_RMS_NORM, .in = "f64[2,3,5] f64[5]", .attr = {.eps = 1e-3f}},
    {OP_L2_NORM, .in = "f64[2,3,5]"},
    {OP_ATTENTION, .in = "f64[2,5,6] f64[2,5,6] f64[2,5,6]", .attr = {.heads = 3, .scale = 0.7f}, .range = 2},
    {OP_ATTENTION, .in = "f64[2,5,6] f64[2,5,6] f64[2,5,6]", .attr = {.heads = 2, .scale = 0.6f, .causal = 1}, .range = 2},
    {OP_ATTENTION, .in = "f64[2,3,4] f64[2,7,4] f64[2,7,4]", .attr = {.heads = 1, .scale = 0.5f}, .range = 2},
    {OP_ATTENTION, .in = "f64[2,3,4] f64[2,5,4] f64[2,5,4]", .attr = {.heads = 2, .scale = 1, .causal = 1}, .range = 2},
    {OP_ATTENTION, .in = "f64[1,5,4] f64[1,3,4] f64[1,3,4]", .attr = {.heads = 1, .scale = 1, .causal = 1}, .range = 2},
    {OP_ATTENTION, .in = "f64[1,7,4] f64[1,2,4] f64[1,2,4]", .attr = {.heads = 4, .scale = 1}, .range = 2},
    {OP_ATTENTION, .in = "f64[1,5,4]", .range = 1, .build = build_attention_self},
    ACT_CASE(ACT_NONE),
    ACT_CASE(ACT_SILU),
    ACT_CASE(ACT_GELU),
    ACT_CASE(ACT_GELU_TANH),
    ACT_CASE(ACT_QUICK_GELU),
    ACT_CASE(ACT_RELU),
    ACT_CASE(ACT_SIGMOID),
    ACT_CASE(ACT_TANH),
    ACT_CASE(ACT_EXP),
    {OP_GEGLU, .in = "f64[2,3,6]", .range = 3},
    {OP_GEGLU, .in = "f64[2]", .range = 3},
    {OP_GEGLU, .in = "f64[2,3,6] f64[6]", .range = 2, .attr = {.has = OP_HAS_BIAS}},
    {OP_ADD, .in = "f64[2,3] f64[2,3]"},
    {OP_MUL, .in = "f64[2,3] f64[2,3]"},
    {OP_MUL, .in = "f64[2,3]", .build = build_mul_self},
    {OP_SCALE, .in = "f64[2,3]", .attr = {.scale = -1.75f}},
    {OP_SCALE, .in = "f64[2,3] f64[1]", .attr = {.scale = 0.3f, .has = OP_HAS_S}},
    {OP_ADD_BCAST, .in = "f64[2,3,2,5] f64[2,5]", .attr = {.bcast = BCAST_ITEM}},
    {OP_ADD_BCAST, .in = "f64[3,2,5] f64[2,5]", .attr = {.bcast = BCAST_ROW}},
    {OP_ADD_BCAST, .in = "f64[2,3,2,5] f64[3,2,5]", .attr = {.bcast = BCAST_ROW}},
    {OP_ADD_BCAST, .in = "f64[2,3,5] f64[5]", .attr = {.bcast = BCAST_CHANNEL}},
    {OP_SUM_BCAST, .in = "f64[2,3,2,5]", .attr = {.bcast = BCAST_ITEM, .meta = M(F64, 2, 5)}},
    {OP_SUM_BCAST, .in = "f64[2,3,5]", .attr = {.bcast = BCAST_ROW, .meta = M(F64, 3, 5)}},
    {OP_SUM_BCAST, .in = "f64[2,3,5]", .attr = {.bcast = BCAST_CHANNEL, .meta = M(F64, 5)}},
    {OP_CONCAT, .in = "f64[2,3,5] f64[2,3,2]"},
    {OP_CONCAT, .in = "f64[1] f64[3]"},
    {OP_LINEAR_BWD_X, .in = "f64[2,3,5] f64[5,4]"},
    {OP_LINEAR_BWD_X, .in = "f64[3,5] f64[5,4] f64[3,4]", .attr = {.has = OP_HAS_RES}},
    {OP_MUL_BCAST, .in = "f64[2,3,4,5] f64[2,5]", .attr = {.bcast = BCAST_ITEM}},
    {OP_MUL_BCAST, .in = "f64[2,3,5] f64[5]", .attr = {.bcast = BCAST_CHANNEL}},
    {OP_ROW_GAIN, .in = "f64[3] f64[3,4]", .fixed = 2},
    {OP_DROPOUT, .in = "f64[3,4,5] i64[3]", .attr = {.scale = 0.4f, .bcast = DROP_ELEMENT}, .ids = 1000},
    {OP_DROPOUT, .in = "f64[3,4,5] i64[3]", .attr = {.scale = 0.4f, .bcast = DROP_CHANNEL}, .ids = 1000},
    {OP_DROPOUT, .in = "f64[3,2,2,5] i64[3]", .attr = {.scale = 0.4f, .bcast = DROP_ITEM}, .ids = 1000},
    {OP_SLICE, .in = "f64[2,3,7]", .attr = {.begin = 2, .count = 3}},
    {OP_SLICE, .in = "f64[2,7]", .attr = {.begin = 0, .count = 7}},
    {OP_SLICE, .in = "f64[3,7]", .attr = {.begin = 6, .count = 1}},
    {OP_CAST, .in = "f64[2,3]", .attr = {.meta = {.dtype = DTYPE_F64}}},
    {OP_CAST, .in = "f32[2,3]", .attr = {.meta = {.dtype = DTYPE_F64}}},
    {OP_RESHAPE, .in = "f64[2,3,4]", .attr = {.meta = M(F64, 4, 6)}},
    {OP_NCHW_TO_NHWC, .in = "f64[2,3,4,5]"},
    {OP_NHWC_TO_NCHW, .in = "f64[2,3,4,5]"},
    {OP_EMBED, .in = "i32[2,5] f64[4,3]", .ids = 4},
    {OP_GATHER_ROW, .in = "f64[3,4,2] i32[3]", .ids = 4},
    {OP_MSE, .in = "f64[3,2,4] f64[3,2,4] f64[3]"},
    {OP_L1, .in = "f64[3,2,4] f64[3,2,4] f64[3]"},
    {OP_PIXEL_LOSS, .in = "f64[3,2,4] f64[3,2,4] f64[3] f64[3] f64[3,2]", .attr = {.loss = OP_LOSS_HUBER}},
    {OP_PIXEL_LOSS, .in = "f64[3,2,4] f64[3,2,4] f64[3] f64[3] f64[3,2]", .attr = {.loss = OP_LOSS_SMOOTH_L1}},
    {OP_PIXEL_LOSS, .in = "f64[2,4] f64[2,4] f64[2] f64[2] f64[2]", .attr = {.loss = OP_LOSS_L2}},
    {OP_MSE, .in = "f64[2,3] f64[2,3] f64[2]", .build = build_loss_of_both, .fixed = 4},
    {OP_XENT, .in = "f64[4,5] i32[4]", .range = 3, .ids = 5},
    {OP_XENT, .in = "f64[3,5] f64[3,5] i32[3]", .range = 1, .ids = 3, .build = build_contrastive},
    {OP_GAUSS_SAMPLE, .in = "f64[2,3,4] f64[2,3,2]"},
    {OP_GAUSS_SAMPLE, .in = "f64[4,6] f64[4,3]", .range = 50}, /* beyond the clamp of logvar on both sides */
    {OP_KL, .in = "f64[2,3,4] f64[2]"},
    {OP_KL, .in = "f64[2,3,4] f64[2,3,2] f64[2]", .build = build_vae_loss, .fixed = 6},
};
enum { CASE_COUNT = sizeof cases / sizeof *cases };

typedef struct {
    const Case *c;
    int nin;
    Meta meta[CASE_MAX_IN];
    void *data[CASE_MAX_IN]; /* in the dtype of the input */
    uint8_t wrt[CASE_MAX_IN];
    double *seed;
    uint64_t lcg;
} Problem;

typedef struct {
    const Problem *p;
    Graph *g;
    Plan *plan;
    Exec *ex;
    OpRef in[CASE_MAX_IN], grad[CASE_MAX_IN], y;
    int64_t ny;
    double size; /* of the last loss: the sum of |terms|, which carries its rounding */
    uint64_t version;
} Net;

static double problem_draw(Problem *p)
{
    p->lcg = p->lcg * 6364136223846793005u + 1442695040888963407u;
    return (double)(p->lcg >> 11) / 9007199254740992.0;
}

static void problem_open(Problem *p, const Case *c, int index)
{
    *p = (Problem){.c = c, .lcg = (uint64_t)index + 12345};
    p->nin = parse_metas(c->in, p->meta);
    double range = c->range > 0 ? c->range : 1;
    for (int i = 0; i < p->nin; i++) {
        int64_t n = shape_count(&p->meta[i].shape);
        p->wrt[i] = is_float(p->meta[i].dtype) && !(c->fixed >> i & 1) && (c->build || !no_gradient(c->kind, i));
        p->data[i] = malloc((size_t)n * dtype_size(p->meta[i].dtype));
        assert_non_null(p->data[i]);
        for (int64_t j = 0; j < n; j++) {
            double u = problem_draw(p), v = (2 * u - 1) * range;
            v += v < 0 ? -0.05 : 0.05; /* away from the kink of relu */
            if (p->meta[i].dtype == DTYPE_F64)
                ((double *)p->data[i])[j] = v;
            else if (p->meta[i].dtype == DTYPE_F32)
                ((float *)p->data[i])[j] = (float)(floor(v * 1024) / 1024);
            else if (p->meta[i].dtype == DTYPE_I64)
                ((int64_t *)p->data[i])[j] = (int64_t)(u * c->ids);
            else
                ((int32_t *)p->data[i])[j] = (int32_t)(u * c->ids);
        }
    }
}

static void problem_close(Problem *p)
{
    for (int i = 0; i < p->nin; i++)
        free(p->data[i]);
    free(p->seed);
}

static void net_close(Net *n)
{
    exec_destroy(n->ex);
    plan_destroy(n->plan);
    graph_destroy(n->g);
}

/* Input 0 and integers are graph inputs, the others parameters, so that both ways are used. */
static int is_param(const Problem *p, int i)
{
    return i > 0 && is_float(p->meta[i].dtype);
}

static int net_send(Net *n, int i)
{
    const Problem *p = n->p;
    const Meta *m = &p->meta[i];
    if (!is_param(p, i))
        return exec_write(n->ex, n->in[i], p->data[i], (size_t)shape_count(&m->shape) * dtype_size(m->dtype));
    OpView v = {.data = p->data[i], .dtype = m->dtype, .shape = m->shape, .version = ++n->version};
    return exec_bind(n->ex, n->in[i], &v);
}

static int net_emit(Net *n, OpBuild *b)
{
    const Case *c = n->p->c;
    OpRef out[OP_MAX_OUT];
    Meta unused[OP_MAX_OUT];
    int nout = 0;
    if (c->build) {
        n->y = c->build(n->g, b, n->in);
        return graph_status(n->g);
    }
    TRY(op_rule(c->kind)->infer(&c->attr, n->p->meta, n->p->nin, unused, &nout));
    TRY(b->emit(b, c->kind, &c->attr, n->in, n->p->nin, out, nout));
    n->y = out[0];
    return 0;
}

/* Bits of `wrt` choose the inputs to differentiate for. The first net of a problem draws its seed. */
static int net_open(Net *n, Problem *p, Backend *be, unsigned wrt, int recompute)
{
    *n = (Net){.p = p};
    OpRef want[CASE_MAX_IN];
    char name[16];
    TRY(graph_create(&n->g, DTYPE_F64));
    OpBuild *b = graph_builder(n->g);
    for (int i = 0; i < p->nin; i++) {
        snprintf(name, sizeof name, "in%d", i);
        n->in[i] = is_param(p, i) ? graph_param(n->g, name, p->meta[i].dtype, p->meta[i].shape)
                                  : graph_input(n->g, name, p->meta[i].dtype, p->meta[i].shape);
        want[i] = wrt >> i & 1 ? n->in[i] : OP_NONE;
    }
    TRY(net_emit(n, b));
    const Meta *my = graph_meta(n->g, n->y);
    n->ny = shape_count(&my->shape);
    OpRef seed = graph_input(n->g, "seed", my->dtype, my->shape);
    graph_output(n->g, n->y, "y");
    TRY(graph_backward(n->g, n->y, seed, want, p->nin, n->grad, recompute));
    for (int i = 0; i < p->nin; i++)
        if (n->grad[i] != OP_NONE) {
            snprintf(name, sizeof name, "grad%d", i);
            graph_output(n->g, n->grad[i], name);
        }
    TRY(graph_status(n->g));
    TRY(graph_optimize(n->g, be));
    TRY(plan_create(&n->plan, n->g, be));
    TRY(exec_create(&n->ex, n->plan));
    if (!p->seed) {
        p->seed = malloc((size_t)n->ny * sizeof *p->seed);
        assert_non_null(p->seed);
        for (int64_t j = 0; j < n->ny; j++)
            p->seed[j] = 2 * problem_draw(p) - 1;
    }
    for (int i = 0; i < p->nin; i++)
        TRY(net_send(n, i));
    if (exec_data(n->ex, seed))
        TRY(exec_write(n->ex, seed, p->seed, (size_t)n->ny * sizeof *p->seed));
    return 0;
}

static int net_loss(Net *n, double *loss)
{
    double *y = malloc((size_t)n->ny * sizeof *y);
    assert_non_null(y);
    int rc = exec_run(n->ex);
    if (rc >= 0)
        rc = exec_read(n->ex, n->y, y, (size_t)n->ny * sizeof *y);
    *loss = n->size = 0;
    for (int64_t j = 0; rc >= 0 && j < n->ny; j++) {
        *loss += n->p->seed[j] * y[j];
        n->size += fabs(n->p->seed[j] * y[j]);
    }
    free(y);
    return rc;
}

/* Moves element j of input i by `by` from `at`. */
static int net_loss_at(Net *n, int i, int64_t j, double at, double by, double *loss)
{
    if (n->p->meta[i].dtype == DTYPE_F64)
        ((double *)n->p->data[i])[j] = at + by;
    else
        ((float *)n->p->data[i])[j] = (float)(at + by);
    TRY(net_send(n, i));
    return net_loss(n, loss);
}

static int net_quotient(Net *n, int i, int64_t j, double *slope)
{
    static const double by[4] = {-2 * STEP, -STEP, STEP, 2 * STEP};
    double l[4], rest;
    int f64 = n->p->meta[i].dtype == DTYPE_F64;
    double at = f64 ? ((double *)n->p->data[i])[j] : (double)((float *)n->p->data[i])[j];
    for (int s = 0; s < 4; s++)
        TRY(net_loss_at(n, i, j, at, by[s], &l[s]));
    TRY(net_loss_at(n, i, j, at, 0, &rest));
    *slope = (8 * (l[2] - l[1]) - (l[3] - l[0])) / (12 * STEP);
    return 0;
}

static int net_gradient(const Net *n, int i, double *d)
{
    const Meta *m = graph_meta(n->g, n->grad[i]);
    int64_t count = shape_count(&m->shape);
    if (!shape_equal(&m->shape, &n->p->meta[i].shape))
        return err_set(ERR_SHAPE, "gradient of input %d has another shape", i);
    if (m->dtype == DTYPE_F64)
        return exec_read(n->ex, n->grad[i], d, (size_t)count * sizeof *d);
    float *f = malloc((size_t)count * sizeof *f);
    assert_non_null(f);
    int rc = exec_read_f32(n->ex, n->grad[i], f, count);
    for (int64_t j = 0; rc >= 0 && j < count; j++)
        d[j] = f[j];
    free(f);
    return rc;
}

static double largest(const double *d, int64_t n)
{
    double m = 0;
    for (int64_t j = 0; j < n; j++)
        m = fmax(m, fabs(d[j]));
    return m;
}

static int case_input(Net *n, int i, const double *d)
{
    int64_t count = shape_count(&n->p->meta[i].shape);
    double big = largest(d, count);
    for (int64_t j = 0; j < count; j++) {
        double q = 0;
        TRY(net_quotient(n, i, j, &q));
        double rounding = 16 * DBL_EPSILON * (1 + n->size) / STEP;
        if (!(fabs(d[j] - q) <= 1e-6 * fabs(q) + 1e-9 * big + rounding))
            return err_set(ERR_NUMERIC, "input %d element %lld: gradient %.12g, difference quotient %.12g", i,
                           (long long)j, d[j], q);
    }
    return 0;
}

/* The same gradients when only input i is asked for, and when segments are recomputed. */
static int case_again(Problem *p, Backend *be, unsigned wrt, int i, int recompute, const double *want)
{
    Net n = {0};
    double loss, *d = malloc((size_t)shape_count(&p->meta[i].shape) * sizeof *d);
    int rc = 0;
    assert_non_null(d);
    TRY_GOTO(net_open(&n, p, be, wrt, recompute));
    TRY_GOTO(net_loss(&n, &loss));
    if (n.grad[i] == OP_NONE) {
        rc = err_set(ERR_NOTFOUND, "input %d alone: no gradient", i);
        goto done;
    }
    TRY_GOTO(net_gradient(&n, i, d));
    double big = largest(want, shape_count(&p->meta[i].shape));
    for (int64_t j = 0; rc >= 0 && j < shape_count(&p->meta[i].shape); j++)
        if (!(fabs(d[j] - want[j]) <= 1e-12 * big))
            rc = err_set(ERR_NUMERIC, "input %d element %lld: gradient %.15g, asked with others %.15g", i, (long long)j,
                         d[j], want[j]);
done:
    net_close(&n);
    free(d);
    return rc;
}

static int case_check(Problem *p, Backend *be)
{
    Net n = {0};
    unsigned wrt = 0;
    double loss, *d = NULL;
    int rc = 0;
    for (int i = 0; i < p->nin; i++)
        wrt |= (unsigned)p->wrt[i] << i;
    TRY_GOTO(net_open(&n, p, be, wrt, 0));
    for (int i = 0; i < p->nin; i++) {
        if (!p->wrt[i])
            continue;
        if (n.grad[i] == OP_NONE) {
            rc = err_set(ERR_NOTFOUND, "input %d: no gradient", i);
            goto done;
        }
        free(d);
        d = malloc((size_t)shape_count(&p->meta[i].shape) * sizeof *d);
        assert_non_null(d);
        TRY_GOTO(net_loss(&n, &loss));
        TRY_GOTO(net_gradient(&n, i, d));
        TRY_GOTO(case_input(&n, i, d));
        TRY_GOTO(case_again(p, be, 1u << i, i, 0, d));
        if (p->c->build)
            TRY_GOTO(case_again(p, be, wrt, i, 1, d));
    }
done:
    net_close(&n);
    free(d);
    return rc;
}

static int check_cases(const Case *list, int count)
{
    Backend *be = NULL;
    int failed = 0;
    if (cpu_backend_create(&be, 1, CPU_ISA_AVX512) < 0)
        fail_msg("%s", err_message());
    for (int i = 0; i < count; i++) {
        Problem p;
        problem_open(&p, &list[i], i);
        if (case_check(&p, be) < 0) {
            print_error("case %d, %s of %s: %s\n", i, op_name(list[i].kind), list[i].in, err_message());
            failed++;
        }
        problem_close(&p);
    }
    backend_destroy(be);
    return failed;
}

static void test_ops_gradients__every_op(void **state)
{
    (void)state;
    int failed = check_cases(cases, CASE_COUNT);
    if (failed)
        fail_msg("%d of %d cases failed", failed, CASE_COUNT);
}

static void test_ops_gradients__blocks_with_recomputation(void **state)
{
    (void)state;
    static const Case blocks[] = {
        {OP_CONV2D, .in = "f64[2,3,4,4] f64[4] f64[4] f64[4,4,3,3] f64[2,4] f64[4,4,3,3] f64[4]", .build = build_resblock},
        {OP_ATTENTION, .in = "f64[2,3,4] f64[4] f64[4] f64[4,4] f64[2,5,3] f64[8,3] f64[6,4] f64[6]", .build = build_transformer},
    };
    int failed = check_cases(blocks, 2);
    if (failed)
        fail_msg("%d of 2 blocks failed", failed);
}

static void test_ops_gradients__table_covers_every_rule(void **state)
{
    (void)state;
    int acts = 0;
    for (int k = 0; k < OP_COUNT; k++) {
        int n = 0;
        for (int i = 0; i < CASE_COUNT; i++)
            n += cases[i].kind == (OpKind)k && !cases[i].build;
        if (op_rule((OpKind)k)->grad && !n)
            fail_msg("%s has a gradient rule and no case", op_name((OpKind)k));
    }
    for (int i = 0; i < CASE_COUNT; i++)
        if (cases[i].kind == OP_ACT)
            acts |= 1 << cases[i].attr.act;
    assert_int_equal(acts, (1 << (ACT_EXP + 1)) - 1);
}

/* bf16: gradients of parameters are f32 however they are read, those of inputs bf16. */
static void test_ops_gradients__bf16_dtypes(void **state)
{
    (void)state;
    static const Case list[] = {
        {OP_LINEAR, .in = "bf16[3,4] bf16[5,4] f32[2,4] f32[5,2]", .build = build_lora_cast},
        {OP_XENT, .in = "bf16[3,5] bf16[3,5] i32[3]", .build = build_contrastive},
        {OP_ATTENTION, .in = "bf16[2,3,4] f32[4] f32[4] bf16[4,4] bf16[2,5,3] bf16[8,3] bf16[6,4] f32[6]",
         .build = build_transformer},
        {OP_CONV2D, .in = "bf16[2,3,4,4] f32[4] f32[4] bf16[4,4,3,3] bf16[2,4] bf16[4,4,3,3] f32[4]",
         .build = build_resblock},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++)
        for (int recompute = 0; recompute < 2; recompute++) {
            Meta m[CASE_MAX_IN];
            OpRef in[CASE_MAX_IN], grad[CASE_MAX_IN];
            Graph *g = NULL;
            char name[16];
            int nin = parse_metas(list[k].in, m);
            assert_int_equal(graph_create(&g, DTYPE_BF16), 0);
            for (int i = 0; i < nin; i++) {
                snprintf(name, sizeof name, "in%d", i);
                in[i] = i && is_float(m[i].dtype) ? graph_param(g, name, m[i].dtype, m[i].shape)
                                                  : graph_input(g, name, m[i].dtype, m[i].shape);
            }
            OpRef y = list[k].build(g, graph_builder(g), in);
            assert_true(y >= 0);
            OpRef seed = graph_input(g, "seed", graph_meta(g, y)->dtype, graph_meta(g, y)->shape);
            if (graph_backward(g, y, seed, in, is_float(m[nin - 1].dtype) ? nin : nin - 1, grad, recompute) < 0)
                fail_msg("%s: %s", list[k].in, err_message());
            for (int i = 0; i < nin && is_float(m[i].dtype); i++)
                assert_int_equal(graph_meta(g, grad[i])->dtype, i ? DTYPE_F32 : DTYPE_BF16);
            graph_destroy(g);
        }
}

/* A quotient that cannot see an error would pass everything: a wrong seed must fail. */
static void test_ops_gradients__a_wrong_gradient_fails(void **state)
{
    (void)state;
    Backend *be = NULL;
    Problem p;
    Net n;
    double loss, d[6];
    assert_int_equal(cpu_backend_create(&be, 1, CPU_ISA_AVX512), 0);
    problem_open(&p, &(Case){OP_MUL, .in = "f64[2,3] f64[2,3]"}, 0);
    assert_int_equal(net_open(&n, &p, be, 3, 0), 0);
    assert_int_equal(net_loss(&n, &loss), 0);
    assert_int_equal(net_gradient(&n, 1, d), 0);
    assert_int_equal(case_input(&n, 1, d), 0);
    d[4] *= 1 + 1e-5;
    assert_int_equal(case_input(&n, 1, d), ERR_NUMERIC);
    net_close(&n);
    problem_close(&p);
    backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops_gradients__table_covers_every_rule),
        cmocka_unit_test(test_ops_gradients__a_wrong_gradient_fails),
        cmocka_unit_test(test_ops_gradients__every_op),
        cmocka_unit_test(test_ops_gradients__blocks_with_recomputation),
        cmocka_unit_test(test_ops_gradients__bf16_dtypes),
    };
    return cmocka_run_group_tests_name("ops/gradients", tests, NULL, NULL);
}
