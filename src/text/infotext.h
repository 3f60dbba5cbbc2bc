/* A1111 "parameters" text: prompt, "Negative prompt: ...", one line of "Key: value, ...". Values with a comma, colon,
 * newline or quote are written as JSON strings (A1111 infotext_utils.quote). */
#ifndef TEXT_INFOTEXT_H
#define TEXT_INFOTEXT_H

#include <stddef.h>

#include "base/error.h"

typedef struct {
    char *key;   /* \w[\w \-/]+ : a letter, digit or _ first */
    char *value; /* unquoted */
} InfotextField;

typedef struct {
    char *prompt, *negative;   /* never NULL after parse; "" when absent */
    InfotextField *field;
    int nfield;
} Infotext;

void infotext_init(Infotext *t); /* empty */
void infotext_deinit(Infotext *t);
int infotext_set_prompt(Infotext *t, const char *prompt, const char *negative);
/* Appends; the order of calls is the order of the line (A1111's: Steps, Sampler, Schedule type, CFG scale, Seed, Size,
 * Model hash, Model, VAE hash, VAE, Denoising strength, Clip skip, RNG, Lora hashes, ..., Version). ERR_RANGE on a bad key. */
int infotext_add(Infotext *t, const char *key, const char *value);
int infotext_addf(Infotext *t, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
const char *infotext_get(const Infotext *t, const char *key); /* borrowed; NULL when absent */

/* *text: free(). */
int infotext_build(char **text, const Infotext *t);
/* As A1111 reads it: the last line holds parameters only if at least 3 "Key: value" are found there. Never fails on
 * content; ERR_NOMEM. Exact inverse of build, except that white space around prompt and negative prompt is trimmed. */
int infotext_parse(Infotext *t, const char *text);

#endif
