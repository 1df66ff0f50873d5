#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault.h"
#include "base/heap.h"
#include "proto/frame.h"

/* The rest of one frame that waits to be written; owns its duplicates of the descriptors. */
struct frame_chunk {
    struct frame_chunk *next;
    size_t begin;
    size_t end;
    uint32_t descriptor_count; /* still to be sent, with the chunk's first byte */
    int descriptors[FRAME_DESCRIPTORS_MAX];
    uint8_t bytes[];
};

/* What one sendmsg() carries. */
struct parcel {
    struct iovec vectors[2];
    const int *descriptors;
    uint32_t descriptor_count;
};

void frame_writer_init(struct frame_writer *writer, size_t queue_max)
{
    KVEIK_ASSERT(queue_max > 0);
    *writer = (struct frame_writer){.queue_max = queue_max};
}

static void close_all(const int *descriptors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        (void)close(descriptors[i]);
    }
}

static void drop_first(struct frame_writer *writer)
{
    struct frame_chunk *chunk = writer->first;
    writer->first = chunk->next;
    if (writer->first == NULL) {
        writer->last = NULL;
    }
    KVEIK_ASSERT(writer->queued_bytes >= chunk->end - chunk->begin);
    writer->queued_bytes -= chunk->end - chunk->begin;
    close_all(chunk->descriptors, chunk->descriptor_count);
    heap_free(chunk);
}

void frame_writer_finish(struct frame_writer *writer)
{
    while (writer->first != NULL) {
        drop_first(writer);
    }
    *writer = (struct frame_writer){0};
}

/* ST_OK with the bytes that went; ST_PENDING; ST_LOST. */
static int send_parcel(int socket, struct parcel *parcel, size_t *sent_out)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FRAME_DESCRIPTORS_MAX * sizeof(int))];
    } control = {.bytes = {0}};
    struct msghdr message = {.msg_iov = parcel->vectors, .msg_iovlen = 2};
    if (parcel->descriptor_count > 0) {
        size_t bytes = parcel->descriptor_count * sizeof(int);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        (void)memcpy(CMSG_DATA(header), parcel->descriptors, bytes);
    }
    ssize_t sent = -1;
    do {
        errno = EPIPE;
        sent =
            fault_fires(FAULT_SEND) ? -1 : sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) {
        *sent_out = (size_t)sent;
        return ST_OK;
    }
    /* ETOOMANYREFS: too many descriptors are in flight; they are fetched sooner or later */
    bool later = errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS;
    return later ? ST_PENDING : ST_LOST;
}

/* Duplicates: the caller keeps its own and may close them. */
static int duplicate(struct frame_chunk *chunk, const int *descriptors, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        int copy = fcntl(descriptors[i], F_DUPFD_CLOEXEC, 0);
        if (copy < 0) {
            close_all(chunk->descriptors, chunk->descriptor_count);
            return ST_NO_MEMORY;
        }
        chunk->descriptors[chunk->descriptor_count++] = copy;
    }
    return ST_OK;
}

/* Queues what is behind the first `sent` bytes. */
static int enqueue(struct frame_writer *writer, const struct parcel *parcel, size_t sent)
{
    size_t header_left = 0;
    size_t payload_sent = 0;
    if (sent < parcel->vectors[0].iov_len) {
        header_left = parcel->vectors[0].iov_len - sent;
    } else {
        payload_sent = sent - parcel->vectors[0].iov_len;
    }
    size_t payload_left = parcel->vectors[1].iov_len - payload_sent;
    struct frame_chunk *chunk = heap_alloc(sizeof *chunk + header_left + payload_left);
    if (chunk == NULL) {
        return ST_NO_MEMORY;
    }
    chunk->next = NULL;
    chunk->begin = 0;
    chunk->end = header_left + payload_left;
    chunk->descriptor_count = 0;
    if (sent == 0 && duplicate(chunk, parcel->descriptors, parcel->descriptor_count) != ST_OK) {
        heap_free(chunk);
        return ST_NO_MEMORY;
    }
    const uint8_t *header = parcel->vectors[0].iov_base;
    (void)memcpy(chunk->bytes, header + (parcel->vectors[0].iov_len - header_left), header_left);
    if (payload_left > 0) {
        const uint8_t *payload = parcel->vectors[1].iov_base;
        (void)memcpy(chunk->bytes + header_left, payload + payload_sent, payload_left);
    }
    if (writer->last == NULL) {
        writer->first = chunk;
    } else {
        writer->last->next = chunk;
    }
    writer->last = chunk;
    writer->queued_bytes += chunk->end;
    return ST_OK;
}

static void put_header(uint8_t header[FRAME_HEADER_BYTES], uint32_t bytes, uint32_t descriptors)
{
    header[0] = (uint8_t)bytes;
    header[1] = (uint8_t)(bytes >> 8);
    header[2] = (uint8_t)(bytes >> 16);
    header[3] = (uint8_t)(bytes >> 24);
    header[4] = (uint8_t)descriptors;
    header[5] = (uint8_t)(descriptors >> 8);
    header[6] = (uint8_t)(FRAME_MARK & 0xff);
    header[7] = (uint8_t)(FRAME_MARK >> 8);
}

static void *unconst(const void *data)
{
    union {
        const void *in;
        void *out;
    } cast = {.in = data};
    return cast.out;
}

int frame_write(struct frame_writer *writer, int socket, const void *payload, uint32_t bytes,
                const int *descriptors, uint32_t descriptor_count)
{
    KVEIK_ASSERT(bytes <= FRAME_PAYLOAD_MAX && (payload != NULL || bytes == 0));
    KVEIK_ASSERT(descriptor_count <= FRAME_DESCRIPTORS_MAX);
    if (writer->queued_bytes + FRAME_HEADER_BYTES + bytes > writer->queue_max) {
        return ST_BUSY;
    }
    uint8_t header[FRAME_HEADER_BYTES];
    put_header(header, bytes, descriptor_count);
    struct parcel parcel = {.vectors = {{.iov_base = header, .iov_len = sizeof header},
                                        {.iov_base = unconst(payload), .iov_len = bytes}},
                            .descriptors = descriptors,
                            .descriptor_count = descriptor_count};
    size_t sent = 0;
    if (writer->first == NULL) {
        int status = send_parcel(socket, &parcel, &sent);
        if (status == ST_LOST) {
            return ST_LOST;
        }
        if (status == ST_OK && sent == sizeof header + bytes) {
            return ST_OK;
        }
    }
    if (enqueue(writer, &parcel, sent) == ST_OK) {
        return ST_PENDING;
    }
    if (sent == 0) {
        return ST_NO_MEMORY;
    }
    /* half a frame went and the rest is gone with the memory: the stream is of no use any more */
    (void)shutdown(socket, SHUT_RDWR);
    return ST_LOST;
}

int frame_flush(struct frame_writer *writer, int socket)
{
    while (writer->first != NULL) {
        struct frame_chunk *chunk = writer->first;
        struct parcel parcel = {.vectors = {{.iov_base = chunk->bytes + chunk->begin,
                                             .iov_len = chunk->end - chunk->begin}},
                                .descriptors = chunk->descriptors,
                                .descriptor_count = chunk->descriptor_count};
        size_t sent = 0;
        int status = send_parcel(socket, &parcel, &sent);
        if (status != ST_OK) {
            return status;
        }
        close_all(chunk->descriptors, chunk->descriptor_count);
        chunk->descriptor_count = 0;
        chunk->begin += sent;
        writer->queued_bytes -= sent;
        if (chunk->begin == chunk->end) {
            drop_first(writer);
        }
    }
    return ST_OK;
}
