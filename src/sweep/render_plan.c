#include <string.h>

#include "sweep/render_impl.h"

static int plan_part(Render *r, const RenderNetSpec *spec, RenderPart *part)
{
    RenderNet net = {0};
    TRY(render_net_build(r, spec, &net));
    *part = (RenderPart){.flops = graph_flops(net.graph),
                         .arena = plan_arena_bytes(net.plan),
                         .params = plan_param_bytes(net.plan),
                         .nodes = plan_node_count(net.plan)};
    render_net_deinit(&net);
    return 0;
}

static RenderNetSpec unet_spec(Render *r, const RenderSetup *s, int n, int chunks)
{
    return (RenderNetSpec){.kind = RENDER_NET_UNET, .setup = s, .rows = (s->guided ? 2 : 1) * n, .width = s->width, .height = s->height,
                           .tokens = chunks * pipeline_text(r->pipe)->positions};
}

/* Runs of the VAE for one image at a size, by network size; adds the second one of a pass through pixels. */
static int plan_vae(Render *r, const RenderSetup *one, const RenderSetup *two, RenderPlan *plan)
{
    int lanczos = one->hires.upscale == RENDER_UPSCALE_LANCZOS;
    RenderNetSpec decode = render_vae_spec(r, two, RENDER_NET_DECODE, two->width, two->height);
    TRY(plan_part(r, &decode, &plan->part[PIPELINE_VAE]));
    plan->decodes = render_vae_runs(r, two, two->width, two->height) + (lanczos ? render_vae_runs(r, one, one->width, one->height) : 0);
    if (!one->source && !lanczos)
        return 0;
    const RenderSetup *s = lanczos ? two : one;
    RenderNetSpec encode = render_vae_spec(r, s, RENDER_NET_ENCODE, s->width, s->height);
    plan->encodes = render_vae_runs(r, s, s->width, s->height);
    return plan_part(r, &encode, &plan->part[RENDER_PLAN_ENCODER]);
}

int render_plan(Render *r, const RenderSetup *s, int n, const RenderPrompt *prompt, RenderPlan *plan)
{
    const RenderPrompt size = prompt ? *prompt : (RenderPrompt){1, 1};
    memset(plan, 0, sizeof *plan);
    TRY(render_setup_check(r, s));
    RenderSetup two = render_second_setup(r, s);
    const RenderNetSpec text = {.kind = RENDER_NET_TEXT, .setup = s, .rows = 1};
    RenderNetSpec unet = unet_spec(r, s, n, size.chunks), second = unet_spec(r, &two, n, size.chunks);
    TRY(plan_part(r, &text, &plan->part[PIPELINE_TEXT]));
    TRY(plan_part(r, &unet, &plan->part[PIPELINE_UNET]));
    TRY(render_pass_calls(s, s->source, &plan->model_calls));
    if (s->hires.upscale) {
        TRY(plan_part(r, &second, &plan->part[RENDER_PLAN_SECOND]));
        TRY(render_pass_calls(&two, 1, &plan->second_calls));
    }
    TRY(plan_vae(r, s, s->hires.upscale ? &two : s, plan));
    size_t all = 0, most = 0;
    for (int i = 0; i < RENDER_PLAN_PARTS; i++) {
        size_t bytes = plan->part[i].arena + plan->part[i].params;
        all += bytes;
        most = bytes > most ? bytes : most;
    }
    plan->peak = all <= (size_t)r->keep ? all : most > (size_t)r->keep ? most : (size_t)r->keep;
    plan->flops_image = (plan->part[PIPELINE_UNET].flops * plan->model_calls + plan->part[RENDER_PLAN_SECOND].flops * plan->second_calls) * size.runs / n +
                        plan->part[PIPELINE_VAE].flops * plan->decodes + plan->part[RENDER_PLAN_ENCODER].flops * plan->encodes;
    return 0;
}
