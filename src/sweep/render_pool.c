#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "graph/device.h"
#include "sweep/render_impl.h"

typedef struct {
    char *model, *vae;
    Render *render;
    pthread_t reader;
    int reading;       /* the thread was started */
} Entry;

struct RenderPool {
    char *variant;
    RenderConf conf;
    Backend *be;
    Entry *entry;
    int count;
    uint64_t clock;
};

int render_pool_create(RenderPool **out, const RenderConf *conf)
{
    RenderPool *p = calloc(1, sizeof *p);
    int rc = p ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0 && conf->variant)
        rc = str_copy(&p->variant, conf->variant);
    if (rc >= 0)
        rc = device_create(&p->be, conf->device, conf->local_rank, conf->threads);
    if (rc < 0) {
        render_pool_destroy(p);
        return rc;
    }
    p->conf = *conf;
    p->conf.variant = p->variant;
    *out = p;
    return 0;
}

Backend *render_pool_backend(RenderPool *p)
{
    return p->be;
}

void render_pool_destroy(RenderPool *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->count; i++) {
        Entry *e = &p->entry[i];
        if (e->reading)
            pthread_join(e->reader, NULL);
        render_close(e->render);
        free(e->model);
        free(e->vae);
    }
    free(p->entry);
    backend_destroy(p->be);
    free(p->variant);
    free(p);
}

static int find(RenderPool *p, const char *model, const char *vae, Entry **out)
{
    vae = vae ? vae : "";
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->entry[i].model, model) == 0 && strcmp(p->entry[i].vae, vae) == 0) {
            *out = &p->entry[i];
            return 0;
        }
    Entry *grown = realloc(p->entry, (size_t)(p->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory");
    p->entry = grown;
    Entry e = {0};
    RenderConf conf = p->conf;
    conf.model = model;
    conf.vae = vae;
    int rc = str_copy(&e.model, model);
    if (rc >= 0)
        rc = str_copy(&e.vae, vae);
    if (rc >= 0)
        rc = render_open_shared(&e.render, &conf, p, p->be);
    if (rc < 0) {
        free(e.model);
        free(e.vae);
        return rc;
    }
    p->entry[p->count] = e;
    *out = &p->entry[p->count++];
    return 0;
}

int render_pool_get(RenderPool *p, const char *model, const char *vae, Render **out)
{
    Entry *e;
    TRY(find(p, model, vae, &e));
    *out = e->render;
    return 0;
}

/* Only mapped pages of files that stay open for the pool's life are touched. */
static void *read_main(void *arg)
{
    const Pipeline *pipe = arg;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        io_safetensors_ahead(pipeline_files(pipe, (PipelinePart)i));
    return NULL;
}

int render_pool_ahead(RenderPool *p, const char *model, const char *vae)
{
    Entry *e;
    TRY(find(p, model, vae, &e));
    if (!e->reading && pthread_create(&e->reader, NULL, read_main, e->render->pipe) == 0)
        e->reading = 1;
    return 0;
}

uint64_t render_tick(Render *r)
{
    return r->pool ? ++r->pool->clock : ++r->clock;
}

static Render *oldest(Render *r)
{
    Render *found = r;
    for (int i = 0; r->pool && i < r->pool->count; i++) {
        Render *k = r->pool->entry[i].render;
        if (render_net_oldest(k) < render_net_oldest(found))
            found = k;
    }
    return found;
}

static size_t held(const Render *r)
{
    size_t sum = 0;
    if (!r->pool)
        return render_net_bytes(r);
    for (int i = 0; i < r->pool->count; i++)
        sum += render_net_bytes(r->pool->entry[i].render);
    return sum;
}

void render_make_room(Render *r, size_t bytes)
{
    while (held(r) + bytes > (size_t)r->keep && render_net_drop(oldest(r)))
        ;
}
