#include "daemon/engine/engine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/queue.h"
#include "daemon/engine/listen.h"
#include "proto/frame.h"

enum {
    ENGINE_MAGIC = 0x4b656e67,
    CONN_MAGIC = 0x4b636f6e,
    FRAMES_A_TURN = 32, /* of one connection, before the others have theirs */
    TURN_MS = 5,        /* no further frame is begun in a turn that took so long */
    ACCEPTS_A_TURN = 64,
    STALL_TICK_MS = 100,
};

struct engine {
    uint32_t magic;
    uv_loop_t *loop;
    struct engine_options options;
    char *socket_path;
    struct engine_handler handler;
    void *ctx;
    struct log *log;
    struct log_limit accept_limit;
    int listener;
    uv_poll_t listener_poll;
    uv_timer_t stall_timer;
    bool listening; /* the socket's file is ours to remove */
    bool resting;   /* accepting failed: nothing is accepted until the next tick */
    struct queue connections;
    uint32_t connection_count;
    uint64_t numbers;
    struct msg_arena in;
    struct msg_arena out;
};

struct engine_conn {
    uint32_t magic;
    struct engine *engine;
    struct queue link;
    uint64_t number;
    int socket;
    struct engine_peer peer;
    struct frame_reader reader;
    struct frame_writer writer;
    uv_poll_t poll;
    uv_poll_t pid_poll;
    uv_idle_t idle; /* the connection's next turn */
    uint32_t open_handles;
    bool writing; /* the poll also waits for writability */
    bool greeted; /* a first message came */
    bool ended;
    bool told;                 /* ended() was called */
    uint64_t waiting_since_ms; /* of a partial frame or a first message; 0: not waiting */
    void *user;
};

static void on_socket(uv_poll_t *poll, int status, int events);

/* ---- ending ---------------------------------------------------------------------------------- */

static void conn_read(struct engine_conn *conn);

/* The next turn: to tell that the connection ended, or to read on after others had their turn. */
static void on_idle(uv_idle_t *idle)
{
    struct engine_conn *conn = CONTAINER_OF(idle, struct engine_conn, idle);
    (void)uv_idle_stop(idle);
    if (!conn->ended) {
        conn_read(conn);
    } else if (!conn->told) {
        conn->told = true;
        conn->engine->handler.ended(conn->engine->ctx, conn);
    }
}

static void conn_stop(struct engine_conn *conn)
{
    conn->ended = true;
    (void)uv_poll_stop(&conn->poll);
    if (conn->peer.pidfd >= 0) {
        (void)uv_poll_stop(&conn->pid_poll);
    }
    (void)uv_idle_start(&conn->idle, on_idle);
}

void engine_end(struct engine_conn *conn, int status, const char *format, ...)
{
    KVEIK_CHECK_OBJ(conn, CONN_MAGIC);
    if (conn->ended) {
        return;
    }
    char text[MSG_TEXT_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    enum log_level level = status == ST_SHUTDOWN ? LOG_LEVEL_INFO : LOG_LEVEL_WARN;
    log_write(conn->engine->log, level, "engine", "session %llu (pid %d) ended: %s",
              (unsigned long long)conn->number, conn->peer.pid, text);
    struct msg notice = {
        .kind = MSG_NOTICE,
        .u.notice = {.kind = NOTICE_SESSION_ENDED, .status = status, .text = text}};
    engine_send(conn, &notice);
    if (!conn->ended) {
        conn_stop(conn);
    }
}

/* The peer is gone: nobody to tell. */
static void conn_lost(struct engine_conn *conn, const char *why)
{
    if (!conn->ended) {
        log_write(conn->engine->log, LOG_LEVEL_INFO, "engine", "session %llu (pid %d) closed: %s",
                  (unsigned long long)conn->number, conn->peer.pid, why);
        conn_stop(conn);
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct engine_conn *conn = handle->data;
    KVEIK_ASSERT(conn->open_handles > 0);
    if (--conn->open_handles > 0) {
        return;
    }
    (void)close(conn->socket);
    if (conn->peer.pidfd >= 0) {
        (void)close(conn->peer.pidfd);
    }
    frame_reader_finish(&conn->reader);
    frame_writer_finish(&conn->writer);
    conn->engine->connection_count--;
    conn->magic = 0;
    heap_free(conn);
}

void engine_close(struct engine_conn *conn)
{
    KVEIK_CHECK_OBJ(conn, CONN_MAGIC);
    KVEIK_ASSERT(conn->ended);
    conn->told = true;
    /* a last try: the notice may still wait for the peer to read */
    (void)frame_flush(&conn->writer, conn->socket);
    queue_remove(&conn->link);
    uv_close((uv_handle_t *)&conn->idle, on_handle_closed);
    uv_close((uv_handle_t *)&conn->poll, on_handle_closed);
    if (conn->peer.pidfd >= 0) {
        uv_close((uv_handle_t *)&conn->pid_poll, on_handle_closed);
    }
}

/* ---- reading and writing --------------------------------------------------------------------- */

static void conn_watch(struct engine_conn *conn)
{
    int events = UV_READABLE | (conn->writing ? UV_WRITABLE : 0);
    (void)uv_poll_start(&conn->poll, events, on_socket);
}

void engine_send(struct engine_conn *conn, const struct msg *msg)
{
    KVEIK_CHECK_OBJ(conn, CONN_MAGIC);
    if (conn->ended) {
        return;
    }
    struct engine *engine = conn->engine;
    struct error error = {0};
    const void *payload = NULL;
    uint32_t bytes = 0;
    msg_arena_reset(&engine->out);
    int status = msg_encode(msg, &engine->out, &payload, &bytes, &error);
    if (status == ST_OK) {
        status = frame_write(&conn->writer, conn->socket, payload, bytes, NULL, 0);
    }
    if (status == ST_PENDING) {
        if (!conn->writing) {
            conn->writing = true;
            conn_watch(conn);
        }
    } else if (status == ST_LOST) {
        conn_lost(conn, "the peer hung up");
    } else if (status != ST_OK) {
        log_write(engine->log, LOG_LEVEL_WARN, "engine", "session %llu (pid %d) ended: %s",
                  (unsigned long long)conn->number, conn->peer.pid,
                  status == ST_BUSY ? "it does not read its answers"
                                    : (error.text[0] != '\0' ? error.text : status_text(status)));
        conn_stop(conn);
    }
}

static void conn_message(struct engine_conn *conn, struct frame *frame)
{
    struct engine *engine = conn->engine;
    struct error error = {0};
    struct msg msg;
    msg_arena_reset(&engine->in);
    int status = msg_decode(frame->payload, frame->payload_bytes, &engine->in, &msg, &error);
    if (status != ST_OK) {
        engine_end(conn, status, "%s", error.text);
        return;
    }
    if (!conn->greeted && msg.kind != MSG_HELLO) {
        engine_end(conn, ST_PROTOCOL, "the first message was %s, it must be hello",
                   msg_kind_name(msg.kind));
        return;
    }
    if (conn->greeted && msg.kind == MSG_HELLO) {
        engine_end(conn, ST_PROTOCOL, "a second hello in one session");
        return;
    }
    conn->greeted = true;
    engine->handler.message(engine->ctx, conn, &msg, frame->descriptors, frame->descriptor_count);
}

/* Handles what is in the reader; false when the turn is used up or the connection ended. */
static bool conn_frames(struct engine_conn *conn, uint32_t *budget, uint64_t until_ms)
{
    while (!conn->ended) {
        bool begun = *budget < FRAMES_A_TURN;
        if (*budget == 0 || (begun && clock_ms() >= until_ms)) {
            return false;
        }
        struct frame frame;
        struct error error = {0};
        int status = frame_next(&conn->reader, &frame, &error);
        if (status == ST_PENDING) {
            return true;
        }
        if (status != ST_OK) {
            engine_end(conn, status, "%s", error.text);
            return false;
        }
        (*budget)--;
        conn_message(conn, &frame);
        frame_finish(&frame);
    }
    return false;
}

static void conn_read(struct engine_conn *conn)
{
    uint32_t budget = FRAMES_A_TURN;
    uint64_t until_ms = clock_ms() + TURN_MS;
    /* frames that an earlier turn left in the buffer come first */
    bool more = conn_frames(conn, &budget, until_ms);
    while (more && !conn->ended) {
        struct error error = {0};
        int status = frame_receive(&conn->reader, conn->socket, &error);
        if (status == ST_PENDING) {
            break;
        }
        if (status == ST_LOST) {
            conn_lost(conn, "end of file");
            return;
        }
        if (status != ST_OK) {
            engine_end(conn, status, "%s", error.text);
            return;
        }
        more = conn_frames(conn, &budget, until_ms);
        if (frame_partial_bytes(&conn->reader) == 0) {
            break; /* whole frames: mostly all that there is, and if not, the socket stays readable
                    */
        }
    }
    if (conn->ended) {
        return;
    }
    if (!more) { /* the turn is used up, and what is in the buffer wakes nobody */
        (void)uv_idle_start(&conn->idle, on_idle);
    }
    bool partial = more && frame_partial_bytes(&conn->reader) > 0;
    if (!partial && conn->greeted) {
        conn->waiting_since_ms = 0;
    } else if (conn->waiting_since_ms == 0 || budget < FRAMES_A_TURN) {
        conn->waiting_since_ms = clock_ms(); /* this frame began now: others were whole */
    }
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct engine_conn *conn = CONTAINER_OF(poll, struct engine_conn, poll);
    KVEIK_CHECK_OBJ(conn, CONN_MAGIC);
    if (status < 0) {
        conn_lost(conn, uv_strerror(status));
        return;
    }
    if ((events & UV_WRITABLE) != 0 && conn->writing) {
        int flushed = frame_flush(&conn->writer, conn->socket);
        if (flushed == ST_LOST) {
            conn_lost(conn, "the peer hung up");
            return;
        }
        if (flushed == ST_OK) {
            conn->writing = false;
            conn_watch(conn);
        }
    }
    if ((events & UV_READABLE) != 0) {
        conn_read(conn);
    }
}

static void on_pidfd(uv_poll_t *poll, int status, int events)
{
    struct engine_conn *conn = CONTAINER_OF(poll, struct engine_conn, pid_poll);
    (void)status;
    (void)events;
    conn_lost(conn, "the peer process is gone");
}

/* ---- accepting ------------------------------------------------------------------------------- */

static int conn_handles_init(struct engine_conn *conn)
{
    uv_loop_t *loop = conn->engine->loop;
    int status = uv_poll_init(loop, &conn->poll, conn->socket);
    if (status != 0) {
        return status;
    }
    (void)uv_idle_init(loop, &conn->idle);
    conn->poll.data = conn;
    conn->idle.data = conn;
    conn->open_handles = 2;
    if (conn->peer.pidfd >= 0) {
        if (uv_poll_init(loop, &conn->pid_poll, conn->peer.pidfd) == 0) {
            conn->pid_poll.data = conn;
            conn->open_handles++;
            (void)uv_poll_start(&conn->pid_poll, UV_READABLE, on_pidfd);
        } else {
            (void)close(conn->peer.pidfd);
            conn->peer.pidfd = -1;
        }
    }
    return 0;
}

static void conn_create(struct engine *engine, int socket)
{
    struct engine_conn *conn = heap_calloc(1, sizeof *conn);
    if (conn == NULL ||
        frame_reader_init(&conn->reader, engine->options.frame_bytes_max) != ST_OK) {
        heap_free(conn);
        (void)close(socket);
        return;
    }
    frame_writer_init(&conn->writer, FRAME_QUEUE_MAX);
    conn->magic = CONN_MAGIC;
    conn->engine = engine;
    conn->socket = socket;
    conn->number = ++engine->numbers;
    conn->waiting_since_ms = clock_ms();
    engine_peer_read(&conn->peer, socket);
    if (conn_handles_init(conn) != 0) {
        if (conn->peer.pidfd >= 0) {
            (void)close(conn->peer.pidfd);
        }
        frame_reader_finish(&conn->reader);
        heap_free(conn);
        (void)close(socket);
        return;
    }
    queue_push_back(&engine->connections, &conn->link);
    engine->connection_count++;
    conn_watch(conn);
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
    struct engine *engine = CONTAINER_OF(poll, struct engine, listener_poll);
    (void)events;
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    for (uint32_t i = 0; status == 0 && i < ACCEPTS_A_TURN; i++) {
        int socket = accept4(engine->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                log_limited(engine->log, &engine->accept_limit, LOG_LEVEL_WARN, "engine",
                            "a connection could not be accepted (errno %d)", errno);
                /* it would be reported again at once: until the next tick */
                (void)uv_poll_stop(&engine->listener_poll);
                engine->resting = true;
            }
            return;
        }
        if (engine->connection_count >= engine->options.connections_max) {
            log_limited(engine->log, &engine->accept_limit, LOG_LEVEL_WARN, "engine",
                        "a connection was refused: %u are open, the limit (sessions-max)",
                        engine->connection_count);
            (void)close(socket);
            continue;
        }
        conn_create(engine, socket);
    }
}

static void on_stall_timer(uv_timer_t *timer)
{
    struct engine *engine = CONTAINER_OF(timer, struct engine, stall_timer);
    uint64_t now = clock_ms();
    if (engine->resting) {
        engine->resting = false;
        (void)uv_poll_start(&engine->listener_poll, UV_READABLE, on_listener);
    }
    queue_foreach_safe (item, &engine->connections) {
        struct engine_conn *conn = CONTAINER_OF(item, struct engine_conn, link);
        if (!conn->ended && conn->waiting_since_ms != 0 &&
            now - conn->waiting_since_ms > engine->options.stall_ms) {
            engine_end(conn, ST_DEADLINE, "%s came within %llu ms",
                       conn->greeted ? "half a message and no more" : "no whole hello",
                       (unsigned long long)engine->options.stall_ms);
        }
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static int engine_init(struct engine *engine, struct error *error)
{
    int status =
        engine_listen(engine->socket_path, engine->options.socket_mode, &engine->listener, error);
    if (status != ST_OK) {
        return status;
    }
    engine->listening = true;
    if (msg_arena_init(&engine->in, MSG_ARENA_BYTES_MAX) != ST_OK ||
        msg_arena_init(&engine->out, MSG_ARENA_BYTES_MAX) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "engine socket: out of memory");
    }
    int failed = uv_poll_init(engine->loop, &engine->listener_poll, engine->listener);
    if (failed != 0) {
        return error_set(error, ST_IO, "poll the listening socket: %s", uv_strerror(failed));
    }
    (void)uv_timer_init(engine->loop, &engine->stall_timer);
    (void)uv_poll_start(&engine->listener_poll, UV_READABLE, on_listener);
    (void)uv_timer_start(&engine->stall_timer, on_stall_timer, STALL_TICK_MS, STALL_TICK_MS);
    return ST_OK;
}

/* NOLINTNEXTLINE(readability-function-size): everything that it will ever need comes here once */
int engine_create(uv_loop_t *loop, const struct engine_options *options,
                  const struct engine_handler *handler, void *ctx, struct log *log,
                  struct engine **engine_out, struct error *error)
{
    struct engine *engine = heap_calloc(1, sizeof *engine);
    if (engine == NULL) {
        return error_set(error, ST_NO_MEMORY, "engine socket: out of memory");
    }
    engine->magic = ENGINE_MAGIC;
    engine->loop = loop;
    engine->options = *options;
    engine->handler = *handler;
    engine->ctx = ctx;
    engine->log = log;
    engine->listener = -1;
    queue_init(&engine->connections);
    engine->socket_path = heap_strdup(options->socket_path);
    int status = engine->socket_path == NULL
                     ? error_set(error, ST_NO_MEMORY, "engine socket: out of memory")
                     : engine_init(engine, error);
    if (status != ST_OK) {
        if (engine->listening && engine->socket_path != NULL) {
            (void)unlink(engine->socket_path);
        }
        engine->listening = false;
        engine_destroy(engine);
        return status;
    }
    *engine_out = engine;
    return ST_OK;
}

void engine_stop_listening(struct engine *engine)
{
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    if (engine->listening) {
        engine->listening = false;
        (void)unlink(engine->socket_path);
        uv_close((uv_handle_t *)&engine->listener_poll, NULL);
        uv_close((uv_handle_t *)&engine->stall_timer, NULL);
    }
}

void engine_end_all(struct engine *engine, int status, const char *why)
{
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    queue_foreach_safe (item, &engine->connections) {
        engine_end(CONTAINER_OF(item, struct engine_conn, link), status, "%s", why);
    }
}

void engine_destroy(struct engine *engine)
{
    if (engine == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(engine, ENGINE_MAGIC);
    KVEIK_ASSERT(engine->connection_count == 0 && !engine->listening);
    if (engine->listener >= 0) {
        (void)close(engine->listener);
    }
    msg_arena_finish(&engine->in);
    msg_arena_finish(&engine->out);
    heap_free(engine->socket_path);
    engine->magic = 0;
    heap_free(engine);
}

const struct engine_peer *engine_conn_peer(const struct engine_conn *conn)
{
    return &conn->peer;
}

void engine_conn_set_user(struct engine_conn *conn, void *user)
{
    conn->user = user;
}

void *engine_conn_user(const struct engine_conn *conn)
{
    return conn->user;
}

uint64_t engine_conn_number(const struct engine_conn *conn)
{
    return conn->number;
}

uint32_t engine_connections(const struct engine *engine)
{
    return engine->connection_count;
}

bool engine_conn_ended(const struct engine_conn *conn)
{
    return conn->ended;
}
