/* Prompt syntax: attention weights and LoRA tags.
 *     (word)  weight * 1.1      ((word)) 1.21      (word:1.3)  weight * 1.3      [word]  weight / 1.1
 *     \( \) \[ \] \\  literal      <lora:name:0.8>  taken out of the text (":0.8" may be absent: 1)
 * as A1111's prompt_parser.parse_prompt_attention reads it; unbalanced brackets run to the end of the text. */
#ifndef TEXT_PROMPT_H
#define TEXT_PROMPT_H

#include <stddef.h>

#include "base/error.h"

typedef struct {
    char *text;
    double weight;
} PromptPart;

typedef struct {
    char *name;
    double scale;
} PromptLora;

typedef struct {
    PromptPart *part; /* neighbours of equal weight are joined; one part "" for an empty prompt */
    int npart;
    PromptLora *lora;
    int nlora;
    char *plain;      /* all parts without syntax, as the tokenizer should see them */
    int weighted;     /* some weight is not 1 */
} Prompt;

/* ERR_NOMEM, ERR_FORMAT for a <lora:...> tag with an empty name or a scale that is no number. */
int prompt_parse(Prompt *p, const char *text);
void prompt_deinit(Prompt *p);

#endif
