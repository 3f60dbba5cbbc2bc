#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "cpu/parallel.h"
#include "ops/optim.h"

static int rising(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* torch.linspace(0.1, 1, n) in float: counted from both ends. */
static float boundary(int n, int i)
{
    float a = 0.1f, b = 1.0f, step = (b - a) / (float)(n - 1);
    return i < n / 2 ? a + step * (float)i : b - step * (float)(n - 1 - i);
}

void optim_dynamic_map(float map[256], int is_signed)
{
    enum { EXPONENTS = 7 };
    int k = 0;
    for (int e = 0; e < EXPONENTS; e++) {
        int items = (is_signed ? 1 << e : 1 << (e + 1)) + 1;
        float scale = (float)pow(10, e - (EXPONENTS - 1));
        for (int i = 0; i + 1 < items; i++) {
            float mean = scale * ((boundary(items, i) + boundary(items, i + 1)) / 2);
            map[k++] = mean;
            if (is_signed)
                map[k++] = -mean;
        }
    }
    map[k++] = 0;
    map[k++] = 1;
    qsort(map, 256, sizeof *map, rising);
}

typedef struct {
    float *p, *m_max, *v_max;
    uint8_t *m8, *v8;
    const float *grad;
    int64_t n;
    float beta1, beta2, eps, scale, decay, step_size, root_v;
    float m_map[256], v_map[256];
} Arg;

/* Index of the nearest value; of the lower one where two are as near. */
static uint8_t nearest(const float map[256], float x)
{
    int low = 0, high = 255;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (map[mid] <= x)
            low = mid;
        else
            high = mid;
    }
    return (uint8_t)(fabsf(x - map[low]) <= fabsf(x - map[high]) ? low : high);
}

/* Block maxima of zero are kept as 1, as the reference does: dividing by them is safe. */
static float quantize(uint8_t *code, const float *x, int64_t n, const float map[256])
{
    float top = 0;
    for (int64_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    if (top == 0)
        top = 1;
    for (int64_t i = 0; i < n; i++)
        code[i] = nearest(map, x[i] / top);
    return top;
}

static void block_task(void *ctx, int64_t block, int thread)
{
    (void)thread;
    const Arg *a = ctx;
    int64_t at = block * OPTIM_BLOCK, n = a->n - at < OPTIM_BLOCK ? a->n - at : OPTIM_BLOCK;
    float m[OPTIM_BLOCK], v[OPTIM_BLOCK], *p = a->p + at;
    for (int64_t i = 0; i < n; i++) {
        float g = a->grad[at + i] * a->scale;
        m[i] = a->m_map[a->m8[at + i]] * a->m_max[block] * a->beta1 + (1 - a->beta1) * g;
        v[i] = a->v_map[a->v8[at + i]] * a->v_max[block] * a->beta2 + (1 - a->beta2) * (g * g);
        p[i] = p[i] * a->decay - a->step_size * (m[i] / (sqrtf(v[i]) / a->root_v + a->eps));
    }
    a->m_max[block] = quantize(a->m8 + at, m, n, a->m_map);
    a->v_max[block] = quantize(a->v8 + at, v, n, a->v_map);
}

void cpu_optim_adamw8(float *p, uint8_t *m8, float *m_max, uint8_t *v8, float *v_max, const float *grad, int64_t n, const OptimAdamw *o)
{
    double t = (double)o->step, lr = (double)o->lr;
    Arg a = {.p = p, .m_max = m_max, .v_max = v_max, .m8 = m8, .v8 = v8, .grad = grad, .n = n};
    a.beta1 = o->beta1;
    a.beta2 = o->beta2;
    a.eps = o->eps;
    a.scale = o->grad_scale;
    a.decay = (float)(1 - lr * (double)o->weight_decay);
    a.step_size = (float)(lr / (1 - pow((double)o->beta1, t)));
    a.root_v = (float)sqrt(1 - pow((double)o->beta2, t));
    optim_dynamic_map(a.m_map, 1);
    optim_dynamic_map(a.v_map, 0);
    Backend be = {.threads = omp_get_max_threads()};
    cpu_parallel_tasks(&be, optim_blocks(n), n * 16, block_task, &a);
}
