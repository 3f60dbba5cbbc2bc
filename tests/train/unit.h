/* Shared by the unit tests of src/train: assertions on error codes, a scratch folder, small images. */
#ifndef TESTS_TRAIN_UNIT_H
#define TESTS_TRAIN_UNIT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "io/file.h"
#include "io/image.h"
#include "io/png.h"
#include "train/conf.h"

#define OK(e)                                                                                      \
    do {                                                                                           \
        int rc_ok_ = (e);                                                                          \
        if (rc_ok_ < 0) {                                                                          \
            print_error("%s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #e, err_message(), rc_ok_);    \
            fail();                                                                                \
        }                                                                                          \
    } while (0)
#define FAILS(e, code, part)                                                                       \
    do {                                                                                           \
        int rc_fails_ = (e);                                                                       \
        if (rc_fails_ != (code) || !strstr(err_message(), part)) {                                 \
            print_error("%s:%d: %s gave %d '%s'\n", __FILE__, __LINE__, #e, rc_fails_,             \
                        rc_fails_ < 0 ? err_message() : "");                                       \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

static char scratch[64]; /* folder of this program; each test makes names of its own in it */

static inline int scratch_make(void **state)
{
    (void)state;
    strcpy(scratch, "/tmp/atelier-test-XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static inline int scratch_remove(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", scratch);
    return system(command);
}

/* "SCRATCH/name" in one of a few rotating buffers. */
static inline const char *at(const char *name)
{
    static char buf[8][256];
    static int k;
    k = (k + 1) % 8;
    snprintf(buf[k], sizeof buf[k], "%s/%s", scratch, name);
    return buf[k];
}

static inline void put_text(const char *name, const char *text)
{
    OK(io_file_write(at(name), text, strlen(text)));
}

/* A w x h picture, RGB = (shade, x, y). */
static inline void put_image(const char *name, int w, int h, int shade)
{
    IoImage img = {0};
    OK(io_image_init(&img, w, h, 3));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            uint8_t *p = img.data + (y * w + x) * 3;
            p[0] = (uint8_t)shade, p[1] = (uint8_t)x, p[2] = (uint8_t)y;
        }
    OK(io_png_write(at(name), &img, NULL, 0, 1));
    io_image_deinit(&img);
}

/* overrides end with NULL; model, output and a dataset are given unless named. */
static inline void conf_make(TrainConf *c, const char *const *overrides)
{
    const char *all[40] = {"model=m", "output=o", "datasets=[{path: d}]"};
    int n = 3;
    for (int i = 0; overrides[i]; i++)
        all[n++] = overrides[i];
    OK(train_conf_read(c, NULL, all, n));
}

#endif
