#include "proto/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"

enum {
    READ_FIRST_BYTES = 16 * 1024, /* a reader begins with this and grows to what frames need */
    READ_KEPT_BYTES = 256 * 1024, /* a reader keeps so much when it is empty */
    RECEIVE_MIN_BYTES = 8 * 1024, /* room to offer to one recvmsg() */
};

/* Bytes that wait to be written; the descriptors go with the first of them. */
struct frame_chunk {
    struct frame_chunk *next;
    size_t begin;
    size_t end;
    uint32_t descriptor_count;
    int descriptors[FRAME_DESCRIPTORS_MAX];
    uint8_t bytes[];
};

static void close_all(int *descriptors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (descriptors[i] >= 0) {
            (void)close(descriptors[i]);
            descriptors[i] = -1;
        }
    }
}

void frame_finish(struct frame *frame)
{
    close_all(frame->descriptors, frame->descriptor_count);
    frame->descriptor_count = 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

int frame_reader_init(struct frame_reader *reader, size_t payload_max)
{
    *reader = (struct frame_reader){.payload_max = payload_max};
    reader->buffer = heap_alloc(READ_FIRST_BYTES);
    if (reader->buffer == NULL) {
        return ST_NO_MEMORY;
    }
    reader->capacity = READ_FIRST_BYTES;
    return ST_OK;
}

void frame_reader_finish(struct frame_reader *reader)
{
    close_all(reader->descriptors, reader->descriptor_count);
    heap_free(reader->buffer);
    *reader = (struct frame_reader){0};
}

static uint32_t read_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
           (uint32_t)bytes[3] << 24;
}

static uint32_t read_u16(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
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

/* Makes room behind `end`. The buffer doubles as bytes really come, so that a header's claim alone
 * costs nothing, and never holds more than the largest frame and one useful read; a large one is
 * given back when it is empty. */
static int make_room(struct frame_reader *reader)
{
    size_t held = reader->end - reader->begin;
    if (held == 0) {
        reader->begin = 0;
        reader->end = 0;
        return reader->capacity > READ_KEPT_BYTES ? set_capacity(reader, READ_FIRST_BYTES) : ST_OK;
    }
    if (reader->capacity - reader->end >= RECEIVE_MIN_BYTES) {
        return ST_OK;
    }
    if (reader->begin > 0) {
        (void)memmove(reader->buffer, reader->buffer + reader->begin, held);
        reader->begin = 0;
        reader->end = held;
    }
    size_t most = FRAME_HEADER_BYTES + reader->payload_max + RECEIVE_MIN_BYTES;
    if (reader->capacity - held >= reader->capacity / 2 || reader->capacity >= most) {
        return ST_OK;
    }
    size_t doubled = 2 * reader->capacity;
    return set_capacity(reader, doubled < most ? doubled : most);
}

/* Keeps the descriptors of one recvmsg(); too many are closed and refused. */
static int take_descriptors(struct frame_reader *reader, struct msghdr *message,
                            struct error *error)
{
    int status = ST_OK;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd = -1;
            (void)memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (reader->descriptor_count < ARRAY_COUNT(reader->descriptors)) {
                reader->descriptors[reader->descriptor_count++] = fd;
            } else {
                (void)close(fd);
                status = ST_PROTOCOL;
            }
        }
    }
    if ((message->msg_flags & MSG_CTRUNC) != 0) {
        status = ST_PROTOCOL;
    }
    return status == ST_OK ? ST_OK : error_set(error, status, "too many descriptors with a frame");
}

int frame_receive(struct frame_reader *reader, int socket, struct error *error)
{
    if (make_room(reader) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "no memory for a frame");
    }
    if (reader->end == reader->capacity) {
        return ST_PENDING; /* whole frames wait to be taken first */
    }
    struct iovec part = {.iov_base = reader->buffer + reader->end,
                         .iov_len = reader->capacity - reader->end};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(FRAME_DESCRIPTORS_MAX * sizeof(int))];
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got = 0;
    do {
        if (fault_fires(FAULT_RECEIVE)) {
            errno = ECONNRESET;
            got = -1;
        } else {
            got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        }
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        if (errno == EAGAIN) {
            return ST_PENDING;
        }
        bool short_of = errno == ENOMEM || errno == ENOBUFS;
        return error_errno(error, short_of ? ST_NO_MEMORY : ST_LOST, errno, "receive");
    }
    int status = take_descriptors(reader, &message, error);
    if (got == 0) {
        return error_set(error, ST_LOST, "end of file");
    }
    reader->end += (size_t)got;
    return status;
}

static int check_header(const struct frame_reader *reader, uint32_t payload, uint32_t descriptors,
                        uint32_t mark, struct error *error)
{
    if (mark != FRAME_MARK) {
        return error_set(error, ST_PROTOCOL, "what came is no frame of this protocol (mark %04x)",
                         mark);
    }
    if (payload > reader->payload_max) {
        return error_set(error, ST_PROTOCOL, "a frame of %u bytes is over the limit of %zu",
                         payload, reader->payload_max);
    }
    if (descriptors > FRAME_DESCRIPTORS_MAX) {
        return error_set(error, ST_PROTOCOL, "a frame with %u descriptors, at most %d", descriptors,
                         FRAME_DESCRIPTORS_MAX);
    }
    return ST_OK;
}

int frame_next(struct frame_reader *reader, struct frame *frame_out, struct error *error)
{
    size_t held = reader->end - reader->begin;
    if (held == 0 && reader->descriptor_count > 0) {
        /* they come with the first byte of their frame, so no frame can name these any more */
        return error_set(error, ST_PROTOCOL, "%u descriptors that no frame named",
                         reader->descriptor_count);
    }
    if (held < FRAME_HEADER_BYTES) {
        return ST_PENDING;
    }
    const uint8_t *header = reader->buffer + reader->begin;
    uint32_t payload = read_u32(header);
    uint32_t descriptors = read_u16(header + 4);
    int status = check_header(reader, payload, descriptors, read_u16(header + 6), error);
    if (status != ST_OK) {
        return status;
    }
    if (held < FRAME_HEADER_BYTES + (size_t)payload) {
        return ST_PENDING;
    }
    if (descriptors > reader->descriptor_count) {
        return error_set(error, ST_PROTOCOL, "a frame names %u descriptors, %u came", descriptors,
                         reader->descriptor_count);
    }
    *frame_out = (struct frame){.payload = header + FRAME_HEADER_BYTES,
                                .payload_bytes = payload,
                                .descriptor_count = descriptors};
    (void)memcpy(frame_out->descriptors, reader->descriptors, descriptors * sizeof(int));
    reader->descriptor_count -= descriptors;
    (void)memmove(reader->descriptors, reader->descriptors + descriptors,
                  reader->descriptor_count * sizeof(int));
    reader->begin += FRAME_HEADER_BYTES + (size_t)payload;
    if (reader->begin == reader->end) { /* the payload stays where it is until the next receive */
        reader->begin = 0;
        reader->end = 0;
    }
    return ST_OK;
}

size_t frame_partial_bytes(const struct frame_reader *reader)
{
    return reader->end - reader->begin;
}

/* ---- writing --------------------------------------------------------------------------------- */

void frame_writer_init(struct frame_writer *writer, size_t queue_max)
{
    *writer = (struct frame_writer){.queue_max = queue_max};
}

static void chunk_free(struct frame_chunk *chunk)
{
    close_all(chunk->descriptors, chunk->descriptor_count);
    heap_free(chunk);
}

void frame_writer_finish(struct frame_writer *writer)
{
    while (writer->first != NULL) {
        struct frame_chunk *chunk = writer->first;
        writer->first = chunk->next;
        chunk_free(chunk);
    }
    writer->last = NULL;
    writer->queued_bytes = 0;
}

/* One sendmsg(): bytes sent, or -1 with ST_PENDING or ST_LOST in *status_out. */
static ssize_t send_some(int socket, struct iovec *parts, size_t part_count, const int *descriptors,
                         uint32_t descriptor_count, int *status_out)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(FRAME_DESCRIPTORS_MAX * sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = part_count};
    if (descriptor_count > 0) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
        (void)memcpy(CMSG_DATA(c), descriptors, descriptor_count * sizeof(int));
    }
    ssize_t sent = 0;
    do {
        if (fault_fires(FAULT_SEND)) {
            errno = EPIPE;
            sent = -1;
        } else {
            sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        }
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        /* ETOOMANYREFS: too many descriptors are on their way; they arrive sooner or later */
        bool later =
            errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS;
        *status_out = later ? ST_PENDING : ST_LOST;
    }
    return sent;
}

static void header_write(uint8_t header[FRAME_HEADER_BYTES], uint32_t bytes, uint32_t descriptors)
{
    const uint32_t mark = FRAME_MARK;
    for (uint32_t i = 0; i < 4; i++) {
        header[i] = (uint8_t)(bytes >> (8 * i));
    }
    header[4] = (uint8_t)descriptors;
    header[5] = (uint8_t)(descriptors >> 8);
    header[6] = (uint8_t)mark;
    header[7] = (uint8_t)(mark >> 8);
}

/* What the socket did not take: the tail of header and payload from `sent` on. */
struct rest {
    const uint8_t *header;
    const void *payload;
    uint32_t bytes;
    size_t sent;
    const int *descriptors; /* not yet sent: only when nothing was */
    uint32_t descriptor_count;
};

static int rest_queue(struct frame_writer *writer, const struct rest *rest)
{
    size_t total = FRAME_HEADER_BYTES + (size_t)rest->bytes;
    struct frame_chunk *chunk = heap_alloc(sizeof *chunk + total);
    if (chunk == NULL) {
        return ST_NO_MEMORY;
    }
    *chunk = (struct frame_chunk){.begin = rest->sent, .end = total};
    (void)memcpy(chunk->bytes, rest->header, FRAME_HEADER_BYTES);
    if (rest->bytes > 0) {
        (void)memcpy(chunk->bytes + FRAME_HEADER_BYTES, rest->payload, rest->bytes);
    }
    for (uint32_t i = 0; i < rest->descriptor_count; i++) {
        int copy = fcntl(rest->descriptors[i], F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
            chunk_free(chunk);
            return ST_NO_MEMORY;
        }
        chunk->descriptors[chunk->descriptor_count++] = copy;
    }
    if (writer->last == NULL) {
        writer->first = chunk;
    } else {
        writer->last->next = chunk;
    }
    writer->last = chunk;
    writer->queued_bytes += total - rest->sent;
    return ST_PENDING;
}

int frame_write(struct frame_writer *writer, int socket, const void *payload, uint32_t bytes,
                const int *descriptors, uint32_t descriptor_count)
{
    KVEIK_ASSERT(descriptor_count <= FRAME_DESCRIPTORS_MAX);
    if (writer->queued_bytes + bytes + FRAME_HEADER_BYTES > writer->queue_max) {
        return ST_BUSY;
    }
    uint8_t header[FRAME_HEADER_BYTES];
    header_write(header, bytes, descriptor_count);
    struct rest rest = {.header = header,
                        .payload = payload,
                        .bytes = bytes,
                        .descriptors = descriptors,
                        .descriptor_count = descriptor_count};
    if (writer->first != NULL) {
        return rest_queue(writer, &rest);
    }
    union {
        const void *in;
        void *out;
    } unconst = {.in = payload}; /* sendmsg() only reads, its struct knows no const */
    struct iovec parts[2] = {{.iov_base = header, .iov_len = sizeof header},
                             {.iov_base = unconst.out, .iov_len = bytes}};
    int status = ST_OK;
    ssize_t sent = send_some(socket, parts, 2, descriptors, descriptor_count, &status);
    if (sent < 0 && status != ST_PENDING) {
        return status;
    }
    rest.sent = sent < 0 ? 0 : (size_t)sent;
    if (rest.sent == FRAME_HEADER_BYTES + (size_t)bytes) {
        return ST_OK;
    }
    if (rest.sent > 0) {
        rest.descriptor_count = 0;
        status = rest_queue(writer, &rest);
        /* half a frame is out and the rest cannot be kept: the stream is broken. Only our side is
         * shut: the end of the other's must go on meaning that the peer is done */
        if (status != ST_PENDING) {
            (void)shutdown(socket, SHUT_WR);
            return ST_LOST;
        }
        return ST_PENDING;
    }
    return rest_queue(writer, &rest);
}

int frame_flush(struct frame_writer *writer, int socket)
{
    while (writer->first != NULL) {
        struct frame_chunk *chunk = writer->first;
        struct iovec part = {.iov_base = chunk->bytes + chunk->begin,
                             .iov_len = chunk->end - chunk->begin};
        int status = ST_OK;
        ssize_t sent =
            send_some(socket, &part, 1, chunk->descriptors, chunk->descriptor_count, &status);
        if (sent < 0) {
            return status;
        }
        close_all(chunk->descriptors, chunk->descriptor_count);
        chunk->descriptor_count = 0;
        chunk->begin += (size_t)sent;
        writer->queued_bytes -= (size_t)sent;
        if (chunk->begin < chunk->end) {
            continue;
        }
        writer->first = chunk->next;
        if (writer->first == NULL) {
            writer->last = NULL;
        }
        heap_free(chunk);
    }
    return ST_OK;
}
