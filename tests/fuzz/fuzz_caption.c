/* Captions: any text gives UTF-8 where it is UTF-8, the same one twice, and only the trigger words are new. Lists of all kinds: read or
 * refused. The first byte chooses the settings. */
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "io/file.h"
#include "train/caption.h"
#include "train/dataset.h"

static void caption(const char *text, unsigned how)
{
    TrainDatasetConf c = {.trigger = how & 1 ? "sks" : "", .prefix = how & 2 ? "a" : "", .suffix = how & 4 ? "{b|}" : "", .separator = how & 8 ? ";" : ",",
                          .keep_separator = "|||", .secondary_separator = how & 16 ? ";" : "", .shuffle = how >> 5 & 1, .wildcards = how >> 6 & 1,
                          .tag_dropout = how & 128 ? 0.5f : 0, .keep_tokens = (int32_t)(how & 3)};
    StrBuf a, b;
    str_init(&a);
    str_init(&b);
    if (train_caption_make(&a, &c, text, 1, 2) < 0 || train_caption_make(&b, &c, text, 1, 2) < 0 || strcmp(a.data, b.data) != 0)
        abort();
    if (str_is_utf8(text, strlen(text)) && !str_is_utf8(a.data, a.len))
        abort();
    str_deinit(&a);
    str_deinit(&b);
}

static void list(const char *ext, const uint8_t *data, size_t size)
{
    char path[64], set[96];
    TrainConf c = {0};
    TrainDataset *d = NULL;
    snprintf(path, sizeof path, "/tmp/fuzz-list-%d%s", (int)getpid(), ext);
    snprintf(set, sizeof set, "datasets=[{path: %s}]", path);
    const char *const o[] = {"model=m", "output=o", set};
    FILE *f = fopen(path, "wb");
    if (!f)
        return;
    fwrite(data, 1, size, f);
    fclose(f);
    if (train_conf_read(&c, NULL, o, 3) >= 0 && train_dataset_open(&d, &c) >= 0)
        train_dataset_close(d);
    train_conf_deinit(&c);
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const ext[] = {".json", ".jsonl", ".csv"};
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    caption(text, size ? data[0] : 0);
    caption(text, 255);
    free(text);
    list(ext[size % 3], data, size);
    return 0;
}
