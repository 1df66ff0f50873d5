/*
 * The connection: see the states in client.h. Nothing here waits; whatever takes time is a state
 * that calls which poll or submit drive on.
 *
 * Why end of file matters: the daemon closes a session's socket only after the copies of that
 * session have ended, and the threads of a daemon that was killed end before its descriptors are
 * closed. So at end of file no copy touches our pages any more, and requests in flight may end with
 * LOST. Where this side wants the end (the daemon spoke nonsense, kveik_close()), it must not close
 * at once while requests are in flight: it shuts its side down and waits for the daemon's.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault.h"
#include "client/lib/client.h"
#include "client/lib/socket.h"

/* ---- ending ---------------------------------------------------------------------------------- */

static void forget_socket(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    /* closing is not enough: a forked child may hold the same socket, and epoll would go on
     * reporting it */
    (void)epoll_ctl(client->inner, EPOLL_CTL_DEL, connection->socket, NULL);
    (void)close(connection->socket);
    connection->socket = -1;
    frame_reader_finish(&connection->reader);
    frame_writer_finish(&connection->writer);
    connection->writing = false;
    connection->going_down = false;
    connection->garbled = false;
    connection->registering = 0;
}

static void back_off(struct kveik_client *client, bool at_once)
{
    struct connection *connection = &client->connection;
    uint64_t now_ms = clock_ms();
    if (at_once) {
        connection->backoff_ms = 0;
        connection->next_attempt_ms = now_ms;
    } else {
        uint32_t most =
            client->backoff_first_ms > BACKOFF_MAX_MS ? client->backoff_first_ms : BACKOFF_MAX_MS;
        uint32_t wait_ms =
            connection->backoff_ms == 0 ? client->backoff_first_ms : connection->backoff_ms;
        connection->next_attempt_ms = now_ms + wait_ms;
        connection->backoff_ms = 2 * wait_ms < most ? 2 * wait_ms : most;
    }
    if (!client->closing) {
        client_wake_at(client, connection->next_attempt_ms);
    }
}

void connection_lost(struct kveik_client *client, const char *why)
{
    struct connection *connection = &client->connection;
    KVEIK_ASSERT(connection->state != STATE_DOWN && connection->socket >= 0);
    bool served = connection->state == STATE_READY;
    if (connection->error.status == ST_OK) {
        (void)error_set(&connection->error, ST_UNAVAILABLE, "the connection was lost: %s", why);
    }
    forget_socket(client);
    connection->state = STATE_DOWN;
    client->progress = true;
    /* the pages are quiet now: see above */
    op_end_all(client, client->closing ? ST_CANCELLED : ST_LOST, connection->error.text);
    back_off(client, served);
}

void connection_drain(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    KVEIK_ASSERT(connection->state != STATE_DOWN);
    if (queue_empty(&client->flight) || connection->state == STATE_HELLO) {
        connection_lost(client, "closed from this side");
        return;
    }
    connection_hung_up(client);
}

void connection_hung_up(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    if (connection->state != STATE_DRAINING) {
        connection->state = STATE_DRAINING;
        (void)shutdown(connection->socket, SHUT_WR);
        client->progress = true;
    }
}

void connection_broken(struct kveik_client *client, const char *why)
{
    (void)error_set(&client->connection.error, ST_PROTOCOL, "the daemon broke the protocol: %s",
                    why);
    client->connection.garbled = true;
    connection_drain(client);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void watch_socket(struct kveik_client *client, int operation)
{
    struct connection *connection = &client->connection;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = connection->socket};
    if (connection->writing) {
        event.events |= EPOLLOUT;
    }
    int watched = epoll_ctl(client->inner, operation, connection->socket, &event);
    KVEIK_ASSERT(watched == 0 || errno == ENOMEM || errno == ENOSPC);
}

static int send_hello(struct kveik_client *client, struct error *error)
{
    struct connection *connection = &client->connection;
    connection->hello_id = ++client->sequence;
    struct msg msg = {.request_id = connection->hello_id,
                      .kind = MSG_HELLO,
                      .u.hello = {.version_min = MSG_VERSION,
                                  .version_max = MSG_VERSION,
                                  .client = client->client_name,
                                  .instance_id = {.data = (const uint8_t *)client->instance,
                                                  .bytes = (uint32_t)strlen(client->instance)},
                                  .token = {.data = client->token, .bytes = client->token_bytes},
                                  .capabilities = MSG_CAPABILITY_CLOCK,
                                  .clock_ns = clock_ns()}};
    return connection_send(client, &msg, -1, error);
}

static void attempt(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    KVEIK_ASSERT(connection->state == STATE_DOWN && connection->socket < 0);
    struct error error = {0};
    int status =
        socket_connect(client->socket_path, &connection->socket, &connection->peer_pid, &error);
    if (status != ST_OK) {
        connection->error = error;
        back_off(client, false);
        return;
    }
    connection->error = (struct error){0};
    connection->epoch++;
    connection->state = STATE_HELLO;
    connection->budget_ms = SUBMIT_BUDGET_MS;
    connection->frame_bytes_max = FRAME_PAYLOAD_MAX;
    connection->hello_until_ms = clock_ms() + client->connect_timeout_ms;
    frame_writer_init(&connection->writer, FRAME_QUEUE_MAX);
    watch_socket(client, EPOLL_CTL_ADD);
    if (frame_reader_init(&connection->reader, FRAME_PAYLOAD_MAX) != ST_OK) {
        connection_lost(client, "out of memory");
        return;
    }
    status = send_hello(client, &error);
    if (status != ST_OK && connection->state != STATE_DOWN) {
        connection_lost(client, error.text);
        return;
    }
    client_wake_at(client, connection->hello_until_ms);
    client->progress = true;
}

void connection_step(struct kveik_client *client, uint64_t now_ms)
{
    struct connection *connection = &client->connection;
    if (connection->state == STATE_DOWN && !client->closing) {
        if (connection->next_attempt_ms <= now_ms) {
            attempt(client);
        } else {
            client_wake_at(client, connection->next_attempt_ms);
        }
    } else if (connection->state == STATE_HELLO) {
        if (connection->hello_until_ms <= now_ms) {
            (void)error_set(&connection->error, ST_UNAVAILABLE,
                            "the daemon did not answer the hello within %u ms",
                            client->connect_timeout_ms);
            connection_lost(client, "no answer to the hello");
        } else {
            client_wake_at(client, connection->hello_until_ms);
        }
    } else if (connection->going_down && queue_empty(&client->flight)) {
        (void)error_set(&connection->error, ST_UNAVAILABLE, "the daemon is going down");
        connection_lost(client, "the daemon is going down");
    }
}

void connection_is_ready(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    connection->state = STATE_READY;
    connection->backoff_ms = 0;
    connection->error = (struct error){0};
    if (connection->seen_ready && connection->epoch != connection->ready_epoch) {
        client->reconnects++;
    }
    connection->seen_ready = true;
    connection->ready_epoch = connection->epoch;
    client->progress = true;
}

static bool is_settled(const struct kveik_client *client, const void *arg)
{
    (void)arg;
    enum connection_state state = client->connection.state;
    return state != STATE_HELLO && state != STATE_REGISTERING;
}

int connection_ready(struct kveik_client *client, struct error *error)
{
    struct connection *connection = &client->connection;
    if (connection->state == STATE_READY && !connection->going_down) {
        return ST_OK;
    }
    client_work(client);
    if (!is_settled(client, NULL) && connection->budget_ms > 0) {
        uint64_t begin_ms = clock_ms();
        (void)client_await(client, is_settled, NULL, begin_ms + connection->budget_ms);
        uint64_t used_ms = clock_ms() - begin_ms + 1;
        connection->budget_ms -=
            used_ms < connection->budget_ms ? (uint32_t)used_ms : connection->budget_ms;
    }
    if (connection->state == STATE_READY && !connection->going_down) {
        return ST_OK;
    }
    return error_set(error, ST_UNAVAILABLE, "%s",
                     connection->error.status != ST_OK ? connection->error.text
                                                       : "the daemon is not connected yet");
}

/* ---- sending --------------------------------------------------------------------------------- */

int connection_send(struct kveik_client *client, const struct msg *msg, int descriptor,
                    struct error *error)
{
    struct connection *connection = &client->connection;
    KVEIK_ASSERT(connection->socket >= 0);
    const void *payload = NULL;
    uint32_t bytes = 0;
    int status = msg_encode(msg, &client->out, &payload, &bytes, error);
    if (status == ST_OK && bytes > connection->frame_bytes_max) {
        status = error_set(error, ST_LIMIT, "a request of %u bytes, the daemon takes %u", bytes,
                           connection->frame_bytes_max);
    }
    if (status != ST_OK) {
        msg_arena_reset(&client->out);
        if (status == ST_PROTOCOL) { /* what the other side would call so is the caller's mistake */
            status = ST_INVALID;
            error->status = status;
        }
        return status;
    }
    status = frame_write(&connection->writer, connection->socket, payload, bytes, &descriptor,
                         descriptor >= 0 ? 1 : 0);
    msg_arena_reset(&client->out);
    if (status == ST_PENDING) {
        if (!connection->writing) {
            connection->writing = true;
            watch_socket(client, EPOLL_CTL_MOD);
        }
        return ST_OK;
    }
    if (status == ST_LOST) {
        connection_hung_up(client);
        return error_set(error, ST_UNAVAILABLE, "the connection was lost");
    }
    return status == ST_OK ? ST_OK : error_set(error, status, "%s", status_text(status));
}

static void flush(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    int status = frame_flush(&connection->writer, connection->socket);
    if (status == ST_OK) {
        connection->writing = false;
        watch_socket(client, EPOLL_CTL_MOD);
    } else if (status == ST_LOST) {
        connection_hung_up(client);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

static void copy_daemon_name(char *out, size_t bytes, const char *name)
{
    size_t length = strnlen(name, bytes - 1);
    (void)memcpy(out, name, length);
    out[length] = '\0';
}

static void on_hello_reply(struct kveik_client *client, const struct msg *msg)
{
    struct connection *connection = &client->connection;
    const struct msg_hello_reply *reply = &msg->u.hello_reply;
    if (reply->version != MSG_VERSION) {
        (void)error_set(&connection->error, ST_VERSION,
                        "the daemon (%.48s) speaks protocol version %u, this library %d",
                        reply->daemon, reply->version, MSG_VERSION);
        connection_lost(client, "no common version");
        return;
    }
    connection->version = reply->version;
    (void)memcpy(connection->boot_id, reply->boot_id, sizeof connection->boot_id);
    connection->session_id = reply->session_id;
    connection->capabilities = reply->capabilities;
    connection->frame_bytes_max = reply->frame_bytes_max;
    connection->requests_max = reply->requests_max;
    connection->keys_max = reply->keys_max < MSG_KEYS_MAX ? reply->keys_max : MSG_KEYS_MAX;
    copy_daemon_name(connection->daemon, sizeof connection->daemon, reply->daemon);
    connection->state = STATE_REGISTERING;
    client->progress = true;
    register_next(client);
}

static void on_notice(struct kveik_client *client, const struct msg *msg)
{
    const struct msg_notice *notice = &msg->u.notice;
    struct connection *connection = &client->connection;
    if (notice->kind == NOTICE_GOING_DOWN) {
        connection->going_down = true;
        return;
    }
    if (notice->kind != NOTICE_SESSION_ENDED) {
        return;
    }
    int status = notice->status < 0 ? notice->status : ST_UNAVAILABLE;
    (void)error_set(&connection->error, status, "the daemon ended the session: %.180s",
                    notice->text[0] != '\0' ? notice->text : status_text(status));
    connection_drain(client);
}

static void on_message(struct kveik_client *client, const struct msg *msg)
{
    struct connection *connection = &client->connection;
    if (msg->kind == MSG_NOTICE) {
        on_notice(client, msg);
    } else if (connection->state != STATE_HELLO) {
        complete_message(client, msg);
    } else if (msg->kind == MSG_HELLO_REPLY && msg->request_id == connection->hello_id) {
        on_hello_reply(client, msg);
    } else {
        connection_broken(client, "the hello was not answered with one");
    }
}

/* Answers are read to the end: a session that is drained still completes what it can. */
static bool is_readable(const struct kveik_client *client)
{
    return client->connection.state != STATE_DOWN && !client->connection.garbled;
}

/* All whole frames that are there. */
static void read_frames(struct kveik_client *client)
{
    struct error error = {0};
    while (is_readable(client)) {
        struct frame frame;
        int status = frame_next(&client->connection.reader, &frame, &error);
        if (status == ST_PENDING) {
            return;
        }
        if (status != ST_OK) {
            connection_broken(client, error.text);
            return;
        }
        struct msg msg;
        msg_arena_reset(&client->in);
        status = msg_decode(frame.payload, frame.payload_bytes, &client->in, &msg, &error);
        frame_finish(&frame);
        if (status == ST_OK) {
            on_message(client, &msg);
        } else {
            connection_broken(client, error.text);
        }
    }
}

/* What a broken session still says is of no interest, only its end is. */
static void read_to_the_end(struct kveik_client *client)
{
    uint8_t scrap[4096];
    ssize_t got = 0;
    do {
        got = recv(client->connection.socket, scrap, sizeof scrap, MSG_DONTWAIT);
    } while (got > 0 || (got < 0 && errno == EINTR));
    if (got == 0 || errno != EAGAIN) {
        connection_lost(client, "the daemon closed it");
    }
}

void connection_read(struct kveik_client *client)
{
    struct connection *connection = &client->connection;
    if (connection->state == STATE_DOWN) {
        return;
    }
    if (connection->writing && connection->state != STATE_DRAINING) {
        flush(client);
    }
    struct error error = {0};
    bool more = true;
    while (more && is_readable(client)) {
        int status = frame_receive(&connection->reader, connection->socket, &error);
        if (status == ST_LOST) {
            connection_lost(client, error.text);
        } else if (status == ST_PROTOCOL) {
            connection_broken(client, error.text);
        } else if (status != ST_OK) {
            return;
        } else {
            /* a buffer that was not filled up says that nothing more is there: saves a call */
            more = connection->reader.end == connection->reader.capacity;
            read_frames(client);
        }
    }
    if (connection->garbled) {
        read_to_the_end(client);
    }
}
