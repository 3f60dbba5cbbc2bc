/* Prompt templates in the syntax of dynamicprompts (docs/SYNTAX.md there):
 *     {a|b}  {0.5::a|2::b}  {2$$a|b|c}  {2$$ and $$a|b}  {1-2$$..} {-2$$..} {1-$$..}     variants, nested at will
 *     __dir/name__  __colours*__ (** alike)  __t(season=winter)__                        wildcards: lines of files below one folder
 *     ${x=v} lazy, ${x=!v} once, ${x?=v} unless set; ${x}  ${x:default}                  variables
 *     %{A ... B$$inner}                                                                 wrap      # comment to the end of the line
 *     {~..} {@..} {!..} __~name__ __@name__ __!name__      random, cyclical, combinatorial, whatever the rest of the template does
 * Wildcard values are sorted and taken once each, as there. Files: NAME.txt, a value per line; .yaml, .yml and .json: maps of lists,
 * DIR/key/key; "2::red" or {text: red, weight: 2} for weights.
 *
 * Expansion k is a pure function of (template, wildcard files, seed, k):
 *     RANDOM         draws from the stream (seed, RNG_WILDCARD, k)
 *     COMBINATORIAL  all expansions, in dynamicprompts' order: the last choice changes fastest; variants give no result twice
 *     CYCLICAL       each choice takes its values in turn
 * Parts with a prefix: ~ draws from the same stream; @ takes value k; ! inside random or cyclical parts follows those.
 * Beyond dynamicprompts: a ${x=!v} with several values is a choice of its own (the slowest) in combinatorial mode, where dynamicprompts
 * takes the first; assignments see those before them and may stand inside variants; a lone $ or % is text; what cannot be found
 * (wildcard, variable) is an error. */
#ifndef TEXT_TEMPLATE_H
#define TEXT_TEMPLATE_H

#include <stdint.h>

#include "base/error.h"
#include "base/str.h"

/* The wildcard files below one folder. Reads a file when a template first names it. Not thread-safe; templates are. */
typedef struct Wildcards Wildcards;
/* dir "" or NULL: no files. ERR_NOTFOUND. */
int wildcards_open(Wildcards **out, const char *dir);
void wildcards_close(Wildcards *w);
/* SHA-256 in hex over the values that templates have taken so far; the same values give the same hash wherever the folder is. */
int wildcards_hash(const Wildcards *w, char hex[65]);

typedef enum { TEMPLATE_RANDOM, TEMPLATE_COMBINATORIAL, TEMPLATE_CYCLICAL } TemplateMode;
extern const char *const TEMPLATE_MODE_NAMES[]; /* ends with NULL */

typedef struct Template Template;

/* Parses the text and everything it refers to. w is not needed afterwards. ERR_FORMAT with the place, ERR_NOTFOUND for wildcards and
 * variables, ERR_RANGE for what refers to itself or grows beyond bounds. *out: template_destroy. Thread-safe once made. */
int template_create(Template **out, const char *text, Wildcards *w, TemplateMode mode);
void template_destroy(Template *t);
/* Number of different expansions in combinatorial mode (INT64_MAX: more than 2^62); 0 in the others: any item may be asked for. */
int64_t template_count(const Template *t);
/* Appends expansion `item` (modulo the count in combinatorial mode). ERR_NOMEM. */
int template_expand(const Template *t, uint64_t seed, uint64_t item, StrBuf *out);

#endif
