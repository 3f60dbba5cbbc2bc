/* Reads the reference files of the sampler tests: safetensors with F32 and I64 tensors. */
#ifndef TESTS_SAMPLER_VECTORS_H
#define TESTS_SAMPLER_VECTORS_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    json_t *header;
    char *data;
} Vectors;

static inline int vectors_open(Vectors *v, const char *path)
{
    uint64_t n = 0;
    json_error_t e;
    FILE *f = fopen(path, "rb");
    if (!f || fread(&n, 8, 1, f) != 1)
        return -1;
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    char *head = malloc(n);
    v->data = malloc(size - 8 - n);
    fseek(f, 8, SEEK_SET);
    if (fread(head, 1, n, f) != n || fread(v->data, 1, size - 8 - n, f) != size - 8 - n)
        return -1;
    fclose(f);
    v->header = json_loadb(head, n, 0, &e);
    free(head);
    return v->header ? 0 : -1;
}

static inline void vectors_close(Vectors *v)
{
    json_decref(v->header);
    free(v->data);
}

/* As doubles; *n elements; free(). NULL when absent. */
static inline double *vectors_get(const Vectors *v, const char *name, size_t *n)
{
    const json_t *t = json_object_get(v->header, name);
    if (!t)
        return NULL;
    const char *type = json_string_value(json_object_get(t, "dtype"));
    const json_t *o = json_object_get(t, "data_offsets");
    size_t a = (size_t)json_integer_value(json_array_get(o, 0)), b = (size_t)json_integer_value(json_array_get(o, 1));
    size_t size = strcmp(type, "F32") == 0 ? 4 : 8;
    *n = (b - a) / size;
    double *out = malloc((*n + 1) * sizeof *out);
    for (size_t i = 0; i < *n; i++) {
        const char *p = v->data + a + i * size;
        if (size == 4) {
            float x;
            memcpy(&x, p, 4);
            out[i] = (double)x;
        } else if (strcmp(type, "I64") == 0) {
            int64_t x;
            memcpy(&x, p, 8);
            out[i] = (double)x;
        } else {
            memcpy(&out[i], p, 8);
        }
    }
    return out;
}

static inline float *vectors_get_f32(const Vectors *v, const char *name, size_t *n)
{
    double *d = vectors_get(v, name, n);
    if (!d)
        return NULL;
    float *out = malloc((*n + 1) * sizeof *out);
    for (size_t i = 0; i < *n; i++)
        out[i] = (float)d[i];
    free(d);
    return out;
}

#endif
