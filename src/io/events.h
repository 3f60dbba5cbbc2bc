/* TensorBoard event files: TFRecord frames (length, masked CRC-32C of it, data, masked CRC-32C of it) of Event messages
 * (tensorflow/core/util/event.proto, tensorboard/compat/proto/summary.proto), in protocol buffers' wire format. */
#ifndef IO_EVENTS_H
#define IO_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct IoEvents IoEvents;

/* Makes DIR/events.out.tfevents.SECONDS.HOST.PID.NAME. step: where the run begins; what earlier files of the folder hold from there on
 * is hidden by readers. */
int io_events_open(IoEvents **out, const char *dir, const char *name, int64_t step);
int io_events_scalar(IoEvents *e, int64_t step, const char *tag, float value);
/* An encoded PNG. */
int io_events_image(IoEvents *e, int64_t step, const char *tag, const uint8_t *png, size_t size, int w, int h);
int io_events_text(IoEvents *e, int64_t step, const char *tag, const char *text);
int io_events_flush(IoEvents *e);
void io_events_close(IoEvents *e); /* NULL is fine */
/* CRC-32C (Castagnoli) of data. */
uint32_t io_crc32c(const void *data, size_t n);

#endif
