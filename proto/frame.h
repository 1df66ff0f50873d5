/*
 * Framing on a Unix stream socket: a header of eight bytes (payload bytes u32 little-endian,
 * descriptors u16, the mark 0x564b u16), then the payload. Descriptors travel by SCM_RIGHTS with
 * the first byte of their frame. Reading and writing never block; memory is bounded by the limits
 * given at init.
 */
#ifndef KVEIK_PROTO_FRAME_H
#define KVEIK_PROTO_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
    FRAME_HEADER_BYTES = 8,
    FRAME_MARK = 0x564b,
    FRAME_DESCRIPTORS_MAX = 16, /* of one frame */
    FRAME_PAYLOAD_MAX = 4 * 1024 * 1024,
    FRAME_QUEUE_MAX = 16 * 1024 * 1024, /* bytes waiting to be written to one peer */
};

/* One received frame. The payload belongs to the reader until the next frame_* call on it; the
 * descriptors belong to the caller, who sets the ones it takes to -1; frame_finish() closes the
 * rest. */
struct frame {
    const uint8_t *payload;
    uint32_t payload_bytes;
    uint32_t descriptor_count;
    int descriptors[FRAME_DESCRIPTORS_MAX];
};

void frame_finish(struct frame *frame);

struct frame_reader {
    uint8_t *buffer;
    size_t capacity;
    size_t begin; /* first unread byte */
    size_t end;   /* behind the last received byte */
    size_t payload_max;
    uint32_t descriptor_count;
    int descriptors[2 * FRAME_DESCRIPTORS_MAX];
};

int frame_reader_init(struct frame_reader *reader, size_t payload_max);

/* Closes what was received and not taken. Accepts a zeroed reader. */
void frame_reader_finish(struct frame_reader *reader);

/* One recvmsg(). ST_OK: something was read; ST_PENDING: nothing there; ST_LOST: end of file or a
 * reset; ST_PROTOCOL: too many or truncated descriptors; ST_NO_MEMORY. */
int frame_receive(struct frame_reader *reader, int socket, struct error *error);

/* The next whole frame that was received. ST_OK, ST_PENDING, or ST_PROTOCOL for a header that is
 * none or over the limit. */
int frame_next(struct frame_reader *reader, struct frame *frame_out, struct error *error);

/* Bytes of a frame of which the rest is still to come; 0 between frames. For stall timers. */
size_t frame_partial_bytes(const struct frame_reader *reader);

struct frame_chunk;

struct frame_writer {
    struct frame_chunk *first;
    struct frame_chunk *last;
    size_t queued_bytes;
    size_t queue_max;
};

void frame_writer_init(struct frame_writer *writer, size_t queue_max);
void frame_writer_finish(struct frame_writer *writer);

/* Sends now what the socket takes and queues the rest. Descriptors are duplicated if they must
 * wait; the caller keeps its own. ST_OK: sent; ST_PENDING: queued, call frame_flush() when the
 * socket is writable; ST_BUSY: over queue_max, nothing was taken; ST_LOST; ST_NO_MEMORY. */
int frame_write(struct frame_writer *writer, int socket, const void *payload, uint32_t bytes,
                const int *descriptors, uint32_t descriptor_count);

/* ST_OK: the queue is empty; ST_PENDING; ST_LOST. */
int frame_flush(struct frame_writer *writer, int socket);

#endif
