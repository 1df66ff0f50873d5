#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "proto/frame.h"

enum {
    READER_FIRST_BYTES = 32 * 1024,
    READER_ROOM_MIN = 4 * 1024,     /* room that a receive is worth making */
    READER_KEPT_BYTES = 256 * 1024, /* a larger buffer is given back when it is empty */
    READER_DESCRIPTORS_MAX = 2 * FRAME_DESCRIPTORS_MAX,
};

struct frame_header {
    uint32_t payload_bytes;
    uint32_t descriptor_count;
    uint32_t mark;
};

static struct frame_header parse_header(const uint8_t *bytes)
{
    return (struct frame_header){.payload_bytes = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 |
                                                  (uint32_t)bytes[2] << 16 |
                                                  (uint32_t)bytes[3] << 24,
                                 .descriptor_count = (uint32_t)bytes[4] | (uint32_t)bytes[5] << 8,
                                 .mark = (uint32_t)bytes[6] | (uint32_t)bytes[7] << 8};
}

void frame_finish(struct frame *frame)
{
    KVEIK_ASSERT(frame->descriptor_count <= FRAME_DESCRIPTORS_MAX);
    for (uint32_t i = 0; i < frame->descriptor_count; i++) {
        if (frame->descriptors[i] >= 0) {
            (void)close(frame->descriptors[i]);
        }
    }
    *frame = (struct frame){0};
}

int frame_reader_init(struct frame_reader *reader, size_t payload_max)
{
    KVEIK_ASSERT(payload_max > 0 && payload_max <= FRAME_PAYLOAD_MAX);
    *reader = (struct frame_reader){.payload_max = payload_max};
    reader->buffer = heap_alloc(READER_FIRST_BYTES);
    if (reader->buffer == NULL) {
        return ST_NO_MEMORY;
    }
    reader->capacity = READER_FIRST_BYTES;
    return ST_OK;
}

void frame_reader_finish(struct frame_reader *reader)
{
    KVEIK_ASSERT(reader->descriptor_count <= READER_DESCRIPTORS_MAX);
    for (uint32_t i = 0; i < reader->descriptor_count; i++) {
        (void)close(reader->descriptors[i]);
    }
    heap_free(reader->buffer);
    *reader = (struct frame_reader){0};
}

static int set_capacity(struct frame_reader *reader, size_t capacity)
{
    KVEIK_ASSERT(reader->begin == 0 && capacity >= reader->end);
    uint8_t *buffer = heap_realloc(reader->buffer, capacity);
    if (buffer == NULL) {
        return ST_NO_MEMORY;
    }
    reader->buffer = buffer;
    reader->capacity = capacity;
    return ST_OK;
}

/* Makes room behind `end`. The buffer grows by doubling as bytes really come, never at once to what
 * a header claims, and not beyond one whole frame. */
static int make_room(struct frame_reader *reader)
{
    size_t held = reader->end - reader->begin;
    if (held == 0) {
        reader->begin = 0;
        reader->end = 0;
        if (reader->capacity > READER_KEPT_BYTES) {
            return set_capacity(reader, READER_FIRST_BYTES);
        }
        return ST_OK;
    }
    if (reader->capacity - reader->end >= READER_ROOM_MIN) {
        return ST_OK;
    }
    (void)memmove(reader->buffer, reader->buffer + reader->begin, held);
    reader->begin = 0;
    reader->end = held;
    size_t capacity_max = FRAME_HEADER_BYTES + reader->payload_max;
    if (reader->capacity - held >= reader->capacity / 2 || reader->capacity >= capacity_max) {
        return ST_OK;
    }
    size_t capacity = 2 * reader->capacity;
    return set_capacity(reader, capacity < capacity_max ? capacity : capacity_max);
}

/* Keeps what fits and closes the rest. False when something had to be closed. */
static bool keep_descriptors(struct frame_reader *reader, const struct cmsghdr *control)
{
    size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    bool kept = true;
    for (size_t i = 0; i < count; i++) {
        int descriptor = -1;
        (void)memcpy(&descriptor, CMSG_DATA(control) + i * sizeof(int), sizeof descriptor);
        if (reader->descriptor_count < READER_DESCRIPTORS_MAX) {
            reader->descriptors[reader->descriptor_count++] = descriptor;
        } else {
            (void)close(descriptor);
            kept = false;
        }
    }
    return kept;
}

static bool take_control(struct frame_reader *reader, struct msghdr *message)
{
    bool kept = (message->msg_flags & MSG_CTRUNC) == 0;
    for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control != NULL;
         control = CMSG_NXTHDR(message, control)) {
        if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
            kept = keep_descriptors(reader, control) && kept;
        }
    }
    return kept;
}

static int receive_failed(int errnum, struct error *error)
{
    switch (errnum) {
    case EAGAIN:
        return ST_PENDING;
    case ENOMEM:
    case ENOBUFS:
        return error_errno(error, ST_NO_MEMORY, errnum, "receive");
    default:
        return error_errno(error, ST_LOST, errnum, "receive");
    }
}

int frame_receive(struct frame_reader *reader, int socket, struct error *error)
{
    KVEIK_ASSERT(reader->buffer != NULL && reader->begin <= reader->end);
    int status = make_room(reader);
    if (status != ST_OK) {
        return error_set(error, status, "no memory to receive a frame");
    }
    if (reader->end == reader->capacity) {
        return ST_PENDING; /* a whole frame is waiting to be taken */
    }
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(READER_DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = reader->buffer + reader->end,
                           .iov_len = reader->capacity - reader->end};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.bytes};
    ssize_t got = -1;
    do {
        errno = ECONNRESET;
        got = fault_fires(FAULT_RECEIVE)
                  ? -1
                  : recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return receive_failed(errno, error);
    }
    if (!take_control(reader, &message)) {
        return error_set(error, ST_PROTOCOL, "more descriptors than frames may carry");
    }
    if (got == 0) {
        return error_set(error, ST_LOST, "the other side closed the connection");
    }
    reader->end += (size_t)got;
    return ST_OK;
}

static int check_header(const struct frame_reader *reader, const struct frame_header *header,
                        struct error *error)
{
    if (header->mark != FRAME_MARK) {
        return error_set(error, ST_PROTOCOL, "no frame: the mark is 0x%04x", header->mark);
    }
    if (header->payload_bytes > reader->payload_max) {
        return error_set(error, ST_PROTOCOL, "a frame of %u bytes, at most %zu",
                         header->payload_bytes, reader->payload_max);
    }
    if (header->descriptor_count > FRAME_DESCRIPTORS_MAX) {
        return error_set(error, ST_PROTOCOL, "a frame with %u descriptors, at most %d",
                         header->descriptor_count, FRAME_DESCRIPTORS_MAX);
    }
    return ST_OK;
}

int frame_next(struct frame_reader *reader, struct frame *frame_out, struct error *error)
{
    KVEIK_ASSERT(reader->begin <= reader->end && reader->end <= reader->capacity);
    size_t held = reader->end - reader->begin;
    if (held == 0 && reader->descriptor_count > 0) {
        /* they come with the first byte of their frame */
        return error_set(error, ST_PROTOCOL, "%u descriptors that no frame announced",
                         reader->descriptor_count);
    }
    if (held < FRAME_HEADER_BYTES) {
        return ST_PENDING;
    }
    struct frame_header header = parse_header(reader->buffer + reader->begin);
    int status = check_header(reader, &header, error);
    if (status != ST_OK) {
        return status;
    }
    if (held - FRAME_HEADER_BYTES < header.payload_bytes) {
        return ST_PENDING;
    }
    if (header.descriptor_count > reader->descriptor_count) {
        return error_set(error, ST_PROTOCOL, "a frame announced %u descriptors, %u came",
                         header.descriptor_count, reader->descriptor_count);
    }
    struct frame frame = {.payload = reader->buffer + reader->begin + FRAME_HEADER_BYTES,
                          .payload_bytes = header.payload_bytes,
                          .descriptor_count = header.descriptor_count};
    size_t taken = header.descriptor_count * sizeof(int);
    reader->descriptor_count -= header.descriptor_count;
    (void)memcpy(frame.descriptors, reader->descriptors, taken);
    (void)memmove(reader->descriptors, reader->descriptors + header.descriptor_count,
                  reader->descriptor_count * sizeof(int));
    reader->begin += FRAME_HEADER_BYTES + (size_t)header.payload_bytes;
    *frame_out = frame;
    return ST_OK;
}

size_t frame_partial_bytes(const struct frame_reader *reader)
{
    return reader->end - reader->begin;
}
