/* Shared by config*.c only. */
#ifndef BASE_CONFIG_IMPL_H
#define BASE_CONFIG_IMPL_H

#include "base/config.h"

/* Text to value; 1 when all of it is one. No hexadecimal, no infinities. */
int conf_parse_bool(const char *s, int *out);
int conf_parse_i64(const char *s, int64_t *out);
int conf_parse_u64(const char *s, uint64_t *out);
int conf_parse_f64(const char *s, double *out);
int conf_parse_size(const char *s, int64_t *out);

/* Nodes. `source` is borrowed. */
int conf_node_scalar(ConfNode **out, const char *text, size_t size, int plain, int line, const char *source);
int conf_node_container(ConfNode **out, ConfNodeKind kind, int line, const char *source);
int conf_node_own_source(ConfNode *n, const char *name);
/* Takes key (NULL in lists) and child, also when it fails. */
int conf_node_append(ConfNode *parent, char *key, ConfNode *child);
/* ERR_FORMAT when nested deeper than CONF_NODE_DEPTH_MAX. */
int conf_node_check_depth(const ConfNode *n, const char *what);

/* PATH: longest dotted key in messages; longer ones are cut. KEY: longest key that is read. DEPTH: of a document; a
 * free-form subtree may use NODE_DEPTH of it, so that it can be written below some structs and read again. */
enum { CONF_PATH_MAX = 512, CONF_KEY_MAX = 256, CONF_DEPTH_MAX = 64, CONF_NODE_DEPTH_MAX = 48 };
/* Sets one field from a node; `path` is its dotted key. */
int conf_field_set(const ConfField *f, void *conf, const ConfNode *n, const char *path);
const ConfField *conf_field_find(const ConfTable *t, const char *key, size_t n);
/* ERR_NOTFOUND with the nearest known key. `path`: of the struct. */
int conf_unknown_key(const ConfTable *t, const ConfNode *where, const char *path, const char *key);

/* Whether -1, the default, stands for "as it follows from other settings": other values are 0 or more. */
int conf_is_automatic(const ConfField *f);
/* "an integer in 1..1024": what a field takes, for messages and help. */
void conf_field_expect(const ConfField *f, StrBuf *out);
/* A number as it appears in bounds: 1e-08, 1024, 8GiB. */
void conf_add_bound(StrBuf *out, ConfType type, double x);
void conf_add_size(StrBuf *out, int64_t bytes);
/* YAML scalar: plain where that is safe in flow and block context, else double-quoted. */
void conf_add_text(StrBuf *out, const char *text, int may_be_plain);

/* Address of a field's value. */
static inline void *conf_at(const ConfField *f, const void *conf)
{
    return (char *)(uintptr_t)conf + f->offset;
}
#define CONF_AT(T, f, conf) (*(T *)conf_at(f, conf))

#endif
