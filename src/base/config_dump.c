#include "base/config_impl.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

typedef enum { AS_YAML, AS_JSON } Form;

static void add_word(StrBuf *out, Form form, const char *text, int may_be_plain)
{
    if (form == AS_JSON)
        str_add_json(out, text, strlen(text));
    else
        conf_add_text(out, text, may_be_plain);
}

static int is_json_scalar(const char *s)
{
    double x;
    if (strcmp(s, "true") == 0 || strcmp(s, "false") == 0 || strcmp(s, "null") == 0)
        return 1;
    const char *p = s + (*s == '-');
    size_t whole = strspn(p, "0123456789"), n = strlen(p);
    if (!conf_parse_f64(s, &x) || !whole || (whole > 1 && *p == '0') || p[n - 1] == '.')
        return 0;
    return p[whole] != '.' || (p[whole + 1] >= '0' && p[whole + 1] <= '9');
}

static void dump_node(const ConfNode *n, StrBuf *out, Form form)
{
    if (n->kind == CONF_NODE_SCALAR) {
        if (conf_node_is_null(n) || (form == AS_JSON && n->plain && is_json_scalar(n->text)))
            str_add(out, n->text);
        else
            add_word(out, form, n->text, n->plain);
        return;
    }
    str_add_char(out, n->kind == CONF_NODE_LIST ? '[' : '{');
    for (int i = 0; i < n->count; i++) {
        if (i)
            str_add(out, ", ");
        if (n->keys) {
            add_word(out, form, n->keys[i], 1);
            str_add(out, ": ");
        }
        dump_node(n->items[i], out, form);
    }
    str_add_char(out, n->kind == CONF_NODE_LIST ? ']' : '}');
}

void conf_node_dump(const ConfNode *n, StrBuf *out)
{
    dump_node(n, out, AS_YAML);
}

void conf_node_dump_json(const ConfNode *n, StrBuf *out)
{
    dump_node(n, out, AS_JSON);
}

static void dump_list(const ConfField *f, const void *conf, StrBuf *out, Form form)
{
    str_add_char(out, '[');
    if (f->type == CONF_TYPE_STRS) {
        const ConfStrs *l = &CONF_AT(ConfStrs, f, conf);
        for (int i = 0; i < l->count; i++) {
            str_add(out, i ? ", " : "");
            add_word(out, form, l->items[i], 1);
        }
    } else if (f->type == CONF_TYPE_NUMS) {
        const ConfNums *l = &CONF_AT(ConfNums, f, conf);
        for (int i = 0; i < l->count; i++) {
            str_add(out, i ? ", " : "");
            str_add_number(out, l->items[i], 0);
        }
    } else {
        const ConfInts *l = &CONF_AT(ConfInts, f, conf);
        for (int i = 0; i < l->count; i++)
            str_add_format(out, "%s%lld", i ? ", " : "", (long long)l->items[i]);
    }
    str_add_char(out, ']');
}

static void dump_value(const ConfField *f, const void *conf, StrBuf *out, Form form)
{
    switch (f->type) {
    case CONF_TYPE_BOOL: str_add(out, CONF_AT(int, f, conf) ? "true" : "false"); break;
    case CONF_TYPE_I32: str_add_format(out, "%d", (int)CONF_AT(int32_t, f, conf)); break;
    case CONF_TYPE_I64: str_add_format(out, "%lld", (long long)CONF_AT(int64_t, f, conf)); break;
    case CONF_TYPE_U64: str_add_format(out, "%llu", (unsigned long long)CONF_AT(uint64_t, f, conf)); break;
    case CONF_TYPE_F32: str_add_number(out, (double)CONF_AT(float, f, conf), 1); break;
    case CONF_TYPE_F64: str_add_number(out, CONF_AT(double, f, conf), 0); break;
    case CONF_TYPE_SIZE:
        if (form == AS_YAML)
            conf_add_size(out, CONF_AT(int64_t, f, conf));
        else
            str_add_format(out, "%lld", (long long)CONF_AT(int64_t, f, conf));
        break;
    case CONF_TYPE_STR: add_word(out, form, CONF_AT(char *, f, conf), 1); break;
    case CONF_TYPE_ENUM: {
        int k = CONF_AT(int, f, conf);
        add_word(out, form, k < 0 ? "" : f->names[k], 1);
        break;
    }
    case CONF_TYPE_NODE: {
        const ConfNode *n = CONF_AT(ConfNode *, f, conf);
        if (n)
            dump_node(n, out, form);
        else
            str_add(out, "null");
        break;
    }
    default: dump_list(f, conf, out, form);
    }
}

static void indent(StrBuf *out, int depth)
{
    for (int i = 0; i < depth; i++)
        str_add(out, "  ");
}

/* `first`: the line has been begun by the "- " of a list. */
static void dump_yaml(const ConfTable *t, const void *conf, StrBuf *out, int depth, int first)
{
    for (int i = 0; i < t->count; i++) {
        const ConfField *f = &t->fields[i];
        if (f->type == CONF_TYPE_ENUM && CONF_AT(int, f, conf) < 0)
            continue; /* required and not set yet: there is no text for it */
        if (!first)
            indent(out, depth);
        first = 0;
        str_add_format(out, "%s:", f->key);
        if (f->type == CONF_TYPE_STRUCT) {
            str_add_char(out, '\n');
            dump_yaml(f->table, conf_at(f, conf), out, depth + 1, 0);
        } else if (f->type == CONF_TYPE_STRUCTS) {
            const ConfList *l = &CONF_AT(ConfList, f, conf);
            str_add(out, l->count ? "\n" : " []\n");
            for (int k = 0; k < l->count; k++) {
                indent(out, depth + 1);
                str_add(out, "- ");
                dump_yaml(f->table, (const char *)l->items + (size_t)k * f->table->size, out, depth + 2, 1);
            }
        } else {
            str_add_char(out, ' ');
            dump_value(f, conf, out, AS_YAML);
            str_add_char(out, '\n');
        }
    }
}

static void dump_json(const ConfTable *t, const void *conf, StrBuf *out)
{
    str_add_char(out, '{');
    for (int i = 0; i < t->count; i++) {
        const ConfField *f = &t->fields[i];
        str_add_format(out, "%s\"%s\": ", i ? ", " : "", f->key);
        if (f->type == CONF_TYPE_STRUCT) {
            dump_json(f->table, conf_at(f, conf), out);
        } else if (f->type == CONF_TYPE_STRUCTS) {
            const ConfList *l = &CONF_AT(ConfList, f, conf);
            str_add_char(out, '[');
            for (int k = 0; k < l->count; k++) {
                str_add(out, k ? ", " : "");
                dump_json(f->table, (const char *)l->items + (size_t)k * f->table->size, out);
            }
            str_add_char(out, ']');
        } else {
            dump_value(f, conf, out, AS_JSON);
        }
    }
    str_add_char(out, '}');
}

int config_dump(const ConfTable *t, const void *conf, StrBuf *out)
{
    dump_yaml(t, conf, out, 0, 0);
    return str_status(out);
}

int config_dump_json(const ConfTable *t, const void *conf, StrBuf *out)
{
    dump_json(t, conf, out);
    return str_status(out);
}

static int is_required(const ConfField *f)
{
    return !f->def || (f->type == CONF_TYPE_STRUCTS && f->min > 0);
}

static void help_struct(const ConfTable *t, StrBuf *out, const char *above)
{
    for (int i = 0; i < t->count; i++) {
        const ConfField *f = &t->fields[i];
        char key[CONF_PATH_MAX];
        snprintf(key, sizeof key, "%s%s", above, f->key);
        if (f->type == CONF_TYPE_STRUCT) {
            str_add_format(out, "  %-30s %s:\n", key, f->doc);
        } else {
            str_add_format(out, "  %-30s %s; ", key, f->doc);
            conf_field_expect(f, out);
            if (is_required(f))
                str_add(out, "; required\n");
            else if (*f->def)
                str_add_format(out, "; default %s\n", f->def);
            else
                str_add(out, "\n");
        }
        if (f->type == CONF_TYPE_STRUCT || f->type == CONF_TYPE_STRUCTS) {
            char below[CONF_PATH_MAX];
            snprintf(below, sizeof below, "%.500s%s", key, f->type == CONF_TYPE_STRUCT ? "." : "[].");
            help_struct(f->table, out, below);
        }
    }
}

void config_help(const ConfTable *t, StrBuf *out)
{
    help_struct(t, out, "");
}
