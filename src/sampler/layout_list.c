#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler/solver_impl.h"

/* Build one step more and leave out the last level above the end (both programs' discard_next_to_last_sigma, discard_penultimate). */
static int discards_penultimate(const SamplerConf *c)
{
    if (c->kind == SAMPLER_DPM2 || c->kind == SAMPLER_DPM2_A)
        return 1;
    return c->rules == SAMPLER_RULES_COMFY ? c->kind == SAMPLER_UNIPC : c->kind == SAMPLER_DPMPP_3M_SDE;
}

/* Steps of the whole list and the number of its last steps that run. ComfyUI KSampler: int(S / d) laid, S run. A1111
 * setup_img2img_steps: t_enc = int(min(d, 0.999) S), t_enc + 1 run. */
static void img2img_steps(const SamplerConf *c, int *laid, int *run)
{
    *laid = *run = c->steps;
    if (c->rules == SAMPLER_RULES_A1111) {
        *run = (int)((c->strength < 0.999 ? c->strength : 0.999) * c->steps) + 1;
        *run = *run < c->steps ? *run : c->steps;
    } else if (c->strength <= 0) {
        *run = 0;
    } else if (c->strength <= 0.9999) {
        *laid = (int)(c->steps / c->strength);
    }
}

static void brownian_range(Sampler *s, const double *level, int n)
{
    s->range[1] = n > 0 ? level[0] : 0;
    for (int k = 0; k <= n; k++)
        if (level[k] > 0)
            s->range[0] = level[k];
}

int sampler_layout_list(Sampler *s)
{
    const SamplerConf *c = &s->c;
    int laid, run, more = discards_penultimate(c);
    img2img_steps(c, &laid, &run);
    if (laid > SAMPLER_MAX_TRAIN_STEPS)
        return err_set(ERR_RANGE, "strength %g with %d steps: more than %d steps would have to be laid", c->strength, c->steps,
                       (int)SAMPLER_MAX_TRAIN_STEPS);
    double *level = malloc((size_t)sampler_sigmas_room(c, laid + more) * sizeof *level);
    if (!level)
        return err_set(ERR_NOMEM, "out of memory: sampler");
    int n = sampler_sigmas(c, &s->table, laid + more, level);
    if (more && n > 1) {
        level[n - 1] = level[n];
        n--;
    }
    int from = n > run ? n - run : 0;
    if (run == c->steps && laid == c->steps)
        from = 0; /* text to image runs the whole list, however long it came out */
    int rc = sampler_layout_alloc(s, run > 0 ? n - from : 0, 2 * (n - from) + 1);
    if (rc == 0) {
        memcpy(s->level, level + from, (size_t)(s->steps + 1) * sizeof *level);
        if (c->kind == SAMPLER_UNIPC && s->steps > 0 && !(s->level[s->steps] > 0))
            s->level[s->steps] = (double)0.001f; /* ComfyUI's uni_pc */
        sampler_layout_calls(s, NULL);
        brownian_range(s, c->rules == SAMPLER_RULES_A1111 ? level : s->level, c->rules == SAMPLER_RULES_A1111 ? n : s->steps);
        double top = s->steps > 0 ? s->level[0] : 0, most = s->table.sigma[s->table.n - 1];
        int full = c->rules == SAMPLER_RULES_COMFY && (fabs(top - most) <= 1e-5 * most || top > most);
        s->first_sigma = full ? sqrt(top * top + 1) : top;
        s->source_sigma = s->first_sigma;
    }
    free(level);
    return rc;
}

/* A1111's UniPC: time_uniform from T = 1 to 1/T, log alpha linear in time. */
static int layout_unipc(Sampler *s, int first)
{
    int T = s->table.n, n = first;
    TRY(sampler_layout_alloc(s, n, n));
    double top = s->c.strength < 1 ? fmin(T - 1.0, s->source_sigma) : T - 1.0;
    for (int k = 0; k <= n; k++) {
        double t = top + (0 - top) * k / n;
        int i = (int)t < T - 1 ? (int)t : T - 2;
        double w = t - i, log_bar = (1 - w) * log(s->table.bar[i]) + w * log(s->table.bar[i + 1]);
        s->level[k] = sqrt(-expm1(log_bar)) / exp(0.5 * log_bar);
        if (k < n)
            s->call[k] = (SamplerCall){.step = k, .t = (double)(float)t, .sigma = s->level[k]};
    }
    s->count = n;
    return 0;
}

/* sd_samplers_timesteps: 1, 1 + T/S, 1 + 2 T/S, ... ; a step from each but the lowest down to the next. */
int sampler_layout_ldm(Sampler *s)
{
    const SamplerConf *c = &s->c;
    int T = s->table.n, stride = T / c->steps, points = (T - 1) / stride + 1;
    int used = c->strength < 1 ? (int)(fmin(c->strength, 0.999) * c->steps) : points;
    int top = used < points ? used * stride + 1 : T - 1; /* noise level of a source */
    top = top < T ? top : T - 1;
    s->first_sigma = 1;
    s->final_bar = s->table.bar[0];
    if (c->kind == SAMPLER_UNIPC) {
        s->source_sigma = used > 0 ? (used - 1) * stride + 1 : 0;
        TRY(layout_unipc(s, used));
        s->source_sigma = sampler_sigma_of(s->table.bar[top]);
        return 0;
    }
    int n = used > 1 ? used - 1 : 0;
    TRY(sampler_layout_alloc(s, n, n + 1));
    int count = 0;
    for (int k = 0; k < n; k++) {
        double t = fmin((n - k) * stride + 1, T - 1.0), next = (n - k - 1) * stride + 1;
        SamplerCall call = {.step = k, .t = t, .sigma = sampler_sigma_of(s->table.bar[(int)t]), .from = t, .prev = next};
        s->call[count++] = call;
        if (k == 0 && c->kind == SAMPLER_PNDM) { /* pseudo improved Euler: a second look from where the first one leads */
            s->call[count] = call;
            s->call[count].t = next;
            s->call[count].sigma = sampler_sigma_of(s->table.bar[(int)next]);
            s->call[count++].part = 1;
        }
        s->level[k] = call.sigma;
    }
    s->count = count;
    s->level[n] = sampler_sigma_of(s->table.bar[1 < T ? 1 : 0]);
    s->source_sigma = c->strength < 1 || count == 0 ? sampler_sigma_of(s->table.bar[top]) : s->call[0].sigma;
    return 0;
}
