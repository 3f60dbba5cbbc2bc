#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "io/file.h"
#include "text/clip_bpe.h"

static const char usage[] =
    "usage: atelier tokenize MODEL \"TEXT\"\n\n"
    "Prints the token ids of a text, without the marks of beginning and end, and how many of them the model reads. MODEL is a\n"
    "model folder or its tokenizer folder.\n";

static int tokenize(const char *model, const char *text)
{
    char *dir = NULL;
    ClipBpe *tok = NULL;
    int32_t *ids = NULL;
    int rc, n;
    TRY_GOTO(io_path_join(&dir, model, "tokenizer"));
    TRY_GOTO(clip_bpe_open(&tok, io_file_is_dir(dir) ? dir : model));
    TRY_GOTO(clip_bpe_encode(tok, text, NULL, 0, &n));
    if (!(ids = malloc(((size_t)n + 1) * sizeof *ids))) {
        rc = err_set(ERR_NOMEM, "out of memory");
        goto done;
    }
    TRY_GOTO(clip_bpe_encode(tok, text, ids, n, &n));
    for (int i = 0; i < n; i++)
        printf("%s%d", i ? " " : "", ids[i]);
    int room = clip_bpe_max_length(tok) - 2;
    printf("\n%d tokens", n);
    if (n > room)
        printf("; only the first %d are read", room);
    printf("\n");
done:
    free(ids);
    clip_bpe_close(tok);
    free(dir);
    return rc;
}

int cli_tokenize(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    if (argc != 3)
        return cli_exit(cli_usage("tokenize", "a model folder and a text are expected"));
    return cli_exit(tokenize(argv[1], argv[2]));
}
