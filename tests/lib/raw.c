#include "tests/lib/raw.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"

enum { CALL_MS = 10000, KINDS = 2, ELEMENTS = 32, PLANE_PAGE_BYTES = GRAIN_TOKENS * ELEMENTS };

bool raw_connect(struct raw *raw, const char *path)
{
    *raw = (struct raw){0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)memcpy(address.sun_path, path, strlen(path) + 1);
    raw->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    frame_writer_init(&raw->writer, FRAME_QUEUE_MAX);
    KVEIK_ASSERT(frame_reader_init(&raw->reader, FRAME_PAYLOAD_MAX) == ST_OK);
    KVEIK_ASSERT(msg_arena_init(&raw->in, MSG_ARENA_BYTES_MAX) == ST_OK);
    KVEIK_ASSERT(msg_arena_init(&raw->out, MSG_ARENA_BYTES_MAX) == ST_OK);
    return connect(raw->socket, (const struct sockaddr *)&address, sizeof address) == 0;
}

void raw_close(struct raw *raw)
{
    (void)close(raw->socket);
    frame_reader_finish(&raw->reader);
    frame_writer_finish(&raw->writer);
    msg_arena_finish(&raw->in);
    msg_arena_finish(&raw->out);
}

bool raw_bytes(struct raw *raw, const void *bytes, size_t count)
{
    const char *from = bytes;
    while (count > 0) {
        ssize_t sent = send(raw->socket, from, count, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        from += sent;
        count -= (size_t)sent;
    }
    return true;
}

bool raw_send(struct raw *raw, const struct msg *msg, const int *descriptors, uint32_t count)
{
    const void *payload = NULL;
    uint32_t bytes = 0;
    struct error error = {0};
    msg_arena_reset(&raw->out);
    int status = msg_encode(msg, &raw->out, &payload, &bytes, &error);
    if (status != ST_OK) {
        (void)fprintf(stderr, "raw_send: %s\n", error.text);
        return false;
    }
    status = frame_write(&raw->writer, raw->socket, payload, bytes, descriptors, count);
    while (status == ST_PENDING) {
        struct pollfd wait = {.fd = raw->socket, .events = POLLOUT};
        if (poll(&wait, 1, CALL_MS) <= 0) {
            return false;
        }
        status = frame_flush(&raw->writer, raw->socket);
    }
    return status == ST_OK;
}

bool raw_receive(struct raw *raw, struct msg *msg_out, uint32_t timeout_ms)
{
    uint64_t until = clock_ms() + timeout_ms;
    struct error error = {0};
    for (;;) {
        struct frame frame;
        int status = frame_next(&raw->reader, &frame, &error);
        if (status == ST_OK) {
            msg_arena_reset(&raw->in);
            status = msg_decode(frame.payload, frame.payload_bytes, &raw->in, msg_out, &error);
            frame_finish(&frame);
            return status == ST_OK;
        }
        uint64_t now = clock_ms();
        struct pollfd wait = {.fd = raw->socket, .events = POLLIN};
        if (status != ST_PENDING || now >= until || poll(&wait, 1, (int)(until - now)) <= 0) {
            return false;
        }
        status = frame_receive(&raw->reader, raw->socket, &error);
        if (status != ST_OK && status != ST_PENDING) {
            return false;
        }
    }
}

static bool at_end(const struct raw *raw, uint32_t timeout_ms)
{
    struct pollfd wait = {.fd = raw->socket, .events = POLLIN};
    char byte = 0;
    return poll(&wait, 1, (int)timeout_ms) > 0 &&
           recv(raw->socket, &byte, 1, MSG_DONTWAIT | MSG_PEEK) <= 0;
}

bool raw_ended(struct raw *raw, char reason[MSG_TEXT_MAX], uint32_t timeout_ms)
{
    uint64_t until = clock_ms() + timeout_ms;
    reason[0] = '\0';
    struct msg msg;
    while (clock_ms() < until) {
        if (!raw_receive(raw, &msg, 200)) {
            if (at_end(raw, 0)) {
                return true;
            }
            continue;
        }
        if (msg.kind == MSG_NOTICE && msg.u.notice.kind == NOTICE_SESSION_ENDED) {
            (void)snprintf(reason, MSG_TEXT_MAX, "%s", msg.u.notice.text);
        }
    }
    return false;
}

bool raw_call(struct raw *raw, const struct msg *msg, struct msg *answer_out)
{
    if (!raw_send(raw, msg, NULL, 0)) {
        return false;
    }
    while (raw_receive(raw, answer_out, CALL_MS)) {
        if (answer_out->request_id == msg->request_id) {
            return true;
        }
    }
    return false;
}

bool raw_hello(struct raw *raw, const char *instance)
{
    struct msg hello = {.request_id = 1,
                        .kind = MSG_HELLO,
                        .u.hello = {.version_min = MSG_VERSION,
                                    .version_max = MSG_VERSION,
                                    .client = "raw",
                                    .instance_id = {.data = (const uint8_t *)instance,
                                                    .bytes = (uint32_t)strlen(instance)}}};
    struct msg answer = {0};
    return raw_call(raw, &hello, &answer) && answer.kind == MSG_HELLO_REPLY;
}

int raw_space(struct raw *raw, uint32_t layers)
{
    struct msg msg = {.request_id = 2, .kind = MSG_REGISTER_SPACE};
    struct space *space = &msg.u.register_space;
    (void)snprintf(space->model, sizeof space->model, "raw-%u", layers);
    space->dtype = SPACE_U8;
    space->group_count = 1;
    space->groups[0] = (struct space_group){.rule = GROUP_EVERY,
                                            .layer_count = layers,
                                            .head_count = 1,
                                            .kind_count = KINDS,
                                            .kind_elements = {ELEMENTS, ELEMENTS}};
    struct msg answer = {0};
    bool good = raw_call(raw, &msg, &answer) && answer.kind == MSG_SPACE_REPLY &&
                answer.u.space_reply.status == ST_OK;
    return good ? (int)answer.u.space_reply.space : -1;
}

int raw_memfd(size_t bytes)
{
    int fd = memfd_create("raw", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    KVEIK_ASSERT(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    static const char zeros[4096];
    for (size_t at = 0; at < bytes; at += sizeof zeros) {
        size_t step = bytes - at < sizeof zeros ? bytes - at : sizeof zeros;
        KVEIK_ASSERT(pwrite(fd, zeros, step, (off_t)at) == (ssize_t)step);
    }
    KVEIK_ASSERT(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    return fd;
}

int raw_export(struct raw *raw, int memfd, uint64_t bytes)
{
    return raw_export_at(raw, memfd, 0, bytes);
}

int raw_export_at(struct raw *raw, int memfd, uint64_t offset, uint64_t bytes)
{
    struct msg msg = {
        .request_id = 3,
        .kind = MSG_EXPORT_MEMORY,
        .u.export_memory = {.kind = MEMORY_MEMFD, .file_offset = offset, .bytes = bytes}};
    struct msg answer = {0};
    if (!raw_send(raw, &msg, &memfd, 1) || !raw_receive(raw, &answer, CALL_MS) ||
        answer.kind != MSG_HANDLE_REPLY) {
        return -1;
    }
    if (answer.u.handle_reply.status != ST_OK) {
        (void)fprintf(stderr, "raw_export: %s\n", answer.u.handle_reply.text);
        return -1;
    }
    return (int)answer.u.handle_reply.handle;
}

uint64_t raw_layout_bytes(uint32_t layers, uint32_t pages)
{
    return (uint64_t)layers * KINDS * pages * PLANE_PAGE_BYTES;
}

int raw_layout(struct raw *raw, uint32_t space, uint32_t layers, uint32_t pages)
{
    struct layout_plane *planes = heap_calloc((size_t)layers * KINDS, sizeof *planes);
    KVEIK_ASSERT(planes != NULL);
    for (uint32_t p = 0; p < layers * KINDS; p++) {
        planes[p] = (struct layout_plane){.offset = (uint64_t)p * pages * PLANE_PAGE_BYTES,
                                          .page_stride = PLANE_PAGE_BYTES,
                                          .token_stride = ELEMENTS,
                                          .head_stride = ELEMENTS,
                                          .element_stride = 1};
    }
    struct msg msg = {.request_id = 4,
                      .kind = MSG_REGISTER_LAYOUT,
                      .u.register_layout = {.space = space,
                                            .layout = {.page_tokens = GRAIN_TOKENS,
                                                       .page_count = pages,
                                                       .layer_count = layers,
                                                       .head_count = 1,
                                                       .kind_count = KINDS,
                                                       .planes = planes},
                                            .plane_count = layers * KINDS}};
    struct msg answer = {0};
    bool good = raw_call(raw, &msg, &answer) && answer.kind == MSG_HANDLE_REPLY &&
                answer.u.handle_reply.status == ST_OK;
    if (!good && answer.kind == MSG_HANDLE_REPLY) {
        (void)fprintf(stderr, "raw_layout: %s\n", answer.u.handle_reply.text);
    }
    heap_free(planes);
    return good ? (int)answer.u.handle_reply.handle : -1;
}

void raw_push(struct msg *msg, struct msg_push_run *run, uint64_t id, const uint8_t *key)
{
    static const uint32_t page = 0;
    *run = (struct msg_push_run){.keys = key,
                                 .key_count = 1,
                                 .block_count = 1,
                                 .block_grains = 1,
                                 .tail_tokens = GRAIN_TOKENS,
                                 .token_count = GRAIN_TOKENS,
                                 .pages = &page,
                                 .page_count = 1};
    *msg =
        (struct msg){.request_id = id, .kind = MSG_PUSH, .u.push = {.runs = run, .run_count = 1}};
}
