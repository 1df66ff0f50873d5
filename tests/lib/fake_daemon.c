/* The fake daemon's connections, its loop and its misbehaviour. */
#include "tests/lib/fake_daemon.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "tests/lib/fake_state.h"

/* ---- connections ----------------------------------------------------------------------------- */

static void conn_close(struct fake_daemon *daemon, uint32_t index)
{
    struct fake_conn *conn = daemon->conns[index];
    if (conn == NULL) {
        return;
    }
    for (uint32_t i = 0; i < THINGS_MAX; i++) {
        fake_region_drop(&conn->regions[i]);
        free(conn->layouts[i].layout.planes);
    }
    frame_reader_finish(&conn->reader);
    frame_writer_finish(&conn->writer);
    (void)close(conn->socket);
    free(conn);
    daemon->conns[index] = NULL;
}

static void conn_accept(struct fake_daemon *daemon)
{
    int socket = accept4(daemon->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket < 0) {
        return;
    }
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        if (daemon->conns[i] == NULL) {
            struct fake_conn *conn = calloc(1, sizeof *conn);
            KVEIK_ASSERT(conn != NULL);
            conn->socket = socket;
            frame_writer_init(&conn->writer, FRAME_QUEUE_MAX);
            while (frame_reader_init(&conn->reader, FRAME_PAYLOAD_MAX) != ST_OK) {
                /* a fault that was meant for the library */
            }
            daemon->conns[i] = conn;
            return;
        }
    }
    (void)close(socket);
}

static void send_msg(struct fake_daemon *daemon, uint32_t index, const struct msg *msg)
{
    const void *payload = NULL;
    uint32_t bytes = 0;
    int status = ST_NO_MEMORY;
    struct fake_conn *conn = daemon->conns[index];
    if (conn == NULL) {
        return;
    }
    struct error error = {0};
    while (status == ST_NO_MEMORY) {
        msg_arena_reset(&daemon->out);
        status = msg_encode(msg, &daemon->out, &payload, &bytes, &error);
    }
    KVEIK_ASSERT(status == ST_OK);
    do {
        status = frame_write(&conn->writer, conn->socket, payload, bytes, NULL, 0);
    } while (status == ST_NO_MEMORY);
}

/* ---- hello ----------------------------------------------------------------------------------- */

static void on_hello(struct fake_daemon *daemon, uint32_t index, const struct msg *msg)
{
    struct msg reply = {.request_id = msg->request_id,
                        .kind = MSG_HELLO_REPLY,
                        .u.hello_reply = {.version = MSG_VERSION,
                                          .session_id = 1 + daemon->counts[MSG_HELLO],
                                          .frame_bytes_max = FRAME_PAYLOAD_MAX,
                                          .requests_max = daemon->requests_max,
                                          .regions_max = THINGS_MAX,
                                          .layouts_max = THINGS_MAX,
                                          .keys_max = MSG_KEYS_MAX,
                                          .daemon = "fake 1",
                                          .instance_id = msg->u.hello.instance_id}};
    (void)memcpy(reply.u.hello_reply.boot_id, daemon->boot_id, MSG_BOOT_ID_BYTES);
    struct fake_conn *conn = daemon->conns[index];
    switch (daemon->hello) {
    case FAKE_HELLO_SILENT:
        return;
    case FAKE_HELLO_VERSION:
        reply.u.hello_reply.version = MSG_VERSION + 1;
        break;
    case FAKE_HELLO_REFUSED:
        reply = (struct msg){
            .kind = MSG_NOTICE,
            .u.notice = {.kind = NOTICE_SESSION_ENDED, .status = ST_PERMISSION, .text = "no"}};
        break;
    case FAKE_HELLO_OTHER:
        fake_answer_shape(MSG_PUSH, ST_OK, &reply);
        break;
    case FAKE_HELLO_GARBAGE:
        (void)send(conn->socket, "this is no frame at all", 23, MSG_NOSIGNAL);
        return;
    case FAKE_HELLO_NO_MESSAGE:
        (void)frame_write(&conn->writer, conn->socket, "\xff\xff\xff", 3, NULL, 0);
        return;
    case FAKE_HELLO_CUT:
    case FAKE_HELLO_GOOD:
        break;
    }
    if (daemon->hello != FAKE_HELLO_CUT) {
        send_msg(daemon, index, &reply);
    }
    if (daemon->hello == FAKE_HELLO_REFUSED || daemon->hello == FAKE_HELLO_CUT) {
        conn_close(daemon, index);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static uint32_t status_count(const struct msg *msg)
{
    uint32_t count = 0;
    for (uint32_t r = 0; msg->kind == MSG_PUSH && r < msg->u.push.run_count; r++) {
        count += msg->u.push.runs[r].block_count;
    }
    for (uint32_t r = 0; msg->kind == MSG_PULL && r < msg->u.pull.run_count; r++) {
        count += msg->u.pull.runs[r].key_count;
    }
    return count;
}

static void on_message(struct fake_daemon *daemon, uint32_t index, const struct msg *msg,
                       struct frame *frame)
{
    daemon->counts[msg->kind]++;
    if (msg->kind == MSG_HELLO) {
        on_hello(daemon, index, msg);
        return;
    }
    if ((daemon->hold >> msg->kind & 1) != 0) {
        KVEIK_ASSERT(daemon->held_count < HELD_MAX);
        daemon->held[daemon->held_count++] = (struct held){.conn = index,
                                                           .request_id = msg->request_id,
                                                           .kind = msg->kind,
                                                           .statuses = status_count(msg)};
        return;
    }
    struct msg reply = {.request_id = msg->request_id};
    if ((daemon->refuse >> msg->kind & 1) != 0) {
        fake_answer_shape(msg->kind, daemon->refusal, &reply);
    } else {
        fake_carry_out(daemon, daemon->conns[index], msg, frame, &reply);
    }
    send_msg(daemon, index, &reply);
}

static void conn_read(struct fake_daemon *daemon, uint32_t index)
{
    struct error error = {0};
    struct fake_conn *conn = daemon->conns[index];
    (void)frame_flush(&conn->writer, conn->socket);
    int status = frame_receive(&conn->reader, conn->socket, &error);
    if (status == ST_LOST) {
        conn_close(daemon, index);
        return;
    }
    while (daemon->conns[index] == conn) {
        struct frame frame;
        status = frame_next(&conn->reader, &frame, &error);
        if (status == ST_PENDING) {
            return;
        }
        KVEIK_ASSERT(status == ST_OK);
        struct msg msg;
        do {
            msg_arena_reset(&daemon->in);
            status = msg_decode(frame.payload, frame.payload_bytes, &daemon->in, &msg, &error);
        } while (status == ST_NO_MEMORY);
        KVEIK_ASSERT(status == ST_OK); /* the library says nothing that is refused */
        on_message(daemon, index, &msg, &frame);
        frame_finish(&frame);
    }
}

static void *run(void *arg)
{
    struct fake_daemon *daemon = arg;
    (void)pthread_mutex_lock(&daemon->mutex);
    while (!daemon->stopping) {
        struct pollfd polls[CONNS_MAX + 2] = {{.fd = daemon->wake, .events = POLLIN},
                                              {.fd = daemon->listener, .events = POLLIN}};
        for (uint32_t i = 0; i < CONNS_MAX; i++) {
            const struct fake_conn *conn = daemon->conns[i];
            polls[2 + i].fd = conn != NULL && !daemon->deaf ? conn->socket : -1;
            polls[2 + i].events = POLLIN;
            if (conn != NULL && conn->writer.queued_bytes > 0) {
                polls[2 + i].events |= POLLOUT;
            }
        }
        (void)pthread_mutex_unlock(&daemon->mutex);
        (void)poll(polls, CONNS_MAX + 2, 1000);
        (void)pthread_mutex_lock(&daemon->mutex);
        uint64_t count = 0;
        ssize_t ignored = read(daemon->wake, &count, sizeof count);
        (void)ignored;
        if (polls[1].revents != 0) {
            conn_accept(daemon);
        }
        for (uint32_t i = 0; i < CONNS_MAX; i++) {
            if (polls[2 + i].revents != 0 && daemon->conns[i] != NULL &&
                daemon->conns[i]->socket == polls[2 + i].fd) {
                conn_read(daemon, i);
            }
        }
    }
    (void)pthread_mutex_unlock(&daemon->mutex);
    return NULL;
}

struct fake_daemon *fake_daemon_start(const char *path)
{
    struct fake_daemon *daemon = calloc(1, sizeof *daemon);
    KVEIK_ASSERT(daemon != NULL && strlen(path) < sizeof daemon->path);
    (void)snprintf(daemon->path, sizeof daemon->path, "%s", path);
    daemon->memory_kinds = UINT32_MAX;
    daemon->requests_max = 1024;
    KVEIK_ASSERT(getrandom(daemon->boot_id, sizeof daemon->boot_id, 0) ==
                 (ssize_t)sizeof daemon->boot_id);
    (void)pthread_mutex_init(&daemon->mutex, NULL);
    int status = msg_arena_init(&daemon->in, MSG_ARENA_BYTES_MAX);
    KVEIK_ASSERT(status == ST_OK);
    status = msg_arena_init(&daemon->out, MSG_ARENA_BYTES_MAX);
    KVEIK_ASSERT(status == ST_OK);
    daemon->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    daemon->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    (void)unlink(path);
    int good = bind(daemon->listener, (const struct sockaddr *)&address, sizeof address);
    KVEIK_ASSERT(good == 0 && listen(daemon->listener, 64) == 0);
    good = pthread_create(&daemon->thread, NULL, run, daemon);
    KVEIK_ASSERT(good == 0);
    return daemon;
}

static void wake(struct fake_daemon *daemon)
{
    uint64_t one = 1;
    ssize_t ignored = write(daemon->wake, &one, sizeof one);
    (void)ignored;
}

static void lock(struct fake_daemon *daemon)
{
    (void)pthread_mutex_lock(&daemon->mutex);
}

static void unlock(struct fake_daemon *daemon)
{
    wake(daemon);
    (void)pthread_mutex_unlock(&daemon->mutex);
}

void fake_daemon_stop(struct fake_daemon *daemon)
{
    lock(daemon);
    daemon->stopping = true;
    unlock(daemon);
    (void)pthread_join(daemon->thread, NULL);
    (void)close(daemon->listener);
    (void)unlink(daemon->path);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        conn_close(daemon, i);
    }
    for (uint32_t i = 0; i < daemon->grain_count; i++) {
        free(daemon->grains[i].data);
    }
    msg_arena_finish(&daemon->in);
    msg_arena_finish(&daemon->out);
    (void)close(daemon->wake);
    (void)pthread_mutex_destroy(&daemon->mutex);
    free(daemon);
}

/* ---- misbehaviour ---------------------------------------------------------------------------- */

void fake_daemon_hello(struct fake_daemon *daemon, enum fake_hello hello)
{
    lock(daemon);
    daemon->hello = hello;
    unlock(daemon);
}

void fake_daemon_hold(struct fake_daemon *daemon, uint64_t kinds)
{
    lock(daemon);
    daemon->hold = kinds;
    unlock(daemon);
}

void fake_daemon_release(struct fake_daemon *daemon)
{
    static int8_t statuses[MSG_KEYS_MAX];
    lock(daemon);
    daemon->hold = 0;
    for (uint32_t i = 0; i < daemon->held_count; i++) {
        struct msg reply = {.request_id = daemon->held[i].request_id};
        fake_answer_shape(daemon->held[i].kind, ST_OK, &reply);
        if (reply.kind == MSG_COMPLETION) {
            reply.u.completion.statuses = statuses;
            reply.u.completion.status_count = daemon->held[i].statuses;
        } else if (reply.kind == MSG_LOOKUP_REPLY) {
            reply.u.lookup_reply.lease = ++daemon->leases;
        } else if (reply.kind == MSG_SPACE_REPLY) {
            reply.u.space_reply.space_id[0] = 1;
        }
        send_msg(daemon, daemon->held[i].conn, &reply);
    }
    daemon->held_count = 0;
    unlock(daemon);
}

void fake_daemon_refuse(struct fake_daemon *daemon, uint64_t kinds, int status)
{
    lock(daemon);
    daemon->refuse = kinds;
    daemon->refusal = status;
    unlock(daemon);
}

void fake_daemon_miscount(struct fake_daemon *daemon, bool miscount)
{
    lock(daemon);
    daemon->miscount = miscount;
    unlock(daemon);
}

void fake_daemon_lie(struct fake_daemon *daemon, bool lie)
{
    lock(daemon);
    daemon->lie = lie;
    unlock(daemon);
}

void fake_daemon_memory(struct fake_daemon *daemon, uint32_t kinds)
{
    lock(daemon);
    daemon->memory_kinds = kinds;
    unlock(daemon);
}

void fake_daemon_requests_max(struct fake_daemon *daemon, uint32_t requests_max)
{
    lock(daemon);
    daemon->requests_max = requests_max;
    unlock(daemon);
}

void fake_daemon_cut(struct fake_daemon *daemon)
{
    lock(daemon);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        conn_close(daemon, i);
    }
    daemon->held_count = 0;
    unlock(daemon);
}

void fake_daemon_deaf(struct fake_daemon *daemon, bool deaf)
{
    lock(daemon);
    daemon->deaf = deaf;
    unlock(daemon);
}

void fake_daemon_say(struct fake_daemon *daemon, const void *bytes, size_t count)
{
    lock(daemon);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        if (daemon->conns[i] != NULL) {
            (void)send(daemon->conns[i]->socket, bytes, count, MSG_NOSIGNAL);
        }
    }
    unlock(daemon);
}

void fake_daemon_notice(struct fake_daemon *daemon, enum notice_kind kind, int status)
{
    lock(daemon);
    for (uint32_t i = 0; i < CONNS_MAX; i++) {
        struct msg msg = {.kind = MSG_NOTICE,
                          .u.notice = {.kind = kind, .status = status, .text = "as told"}};
        send_msg(daemon, i, &msg);
    }
    unlock(daemon);
}

uint64_t fake_daemon_count(struct fake_daemon *daemon, enum msg_kind kind)
{
    lock(daemon);
    uint64_t count = daemon->counts[kind];
    unlock(daemon);
    return count;
}

bool fake_daemon_await(struct fake_daemon *daemon, enum msg_kind kind, uint64_t count)
{
    for (int i = 0; i < 5000; i++) {
        if (fake_daemon_count(daemon, kind) >= count) {
            return true;
        }
        const struct timespec nap = {.tv_nsec = 1000000};
        (void)nanosleep(&nap, NULL);
    }
    return false;
}
