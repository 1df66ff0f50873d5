/* The connection: made, kept, lost and made again, all without blocking. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/lib/client.h"

enum { BACKOFF_MAX_MS = 500, READY_PATIENCE_MS = 5, RECEIVES_A_PUMP = 64 };

/* ---- descriptors ----------------------------------------------------------------------------- */

void client_timer(struct kveik_client *client, uint64_t when_ms)
{
    if (client->timer_ms != 0 && client->timer_ms <= when_ms) {
        return;
    }
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(when_ms / 1000),
                                         .tv_nsec = (long)(when_ms % 1000) * 1000000}};
    if (timerfd_settime(client->timer, TFD_TIMER_ABSTIME, &at, NULL) == 0) {
        client->timer_ms = when_ms;
    }
}

static void timer_drain(struct kveik_client *client, uint64_t now)
{
    if (client->timer_ms != 0 && now >= client->timer_ms) {
        uint64_t count = 0;
        ssize_t got = read(client->timer, &count, sizeof count);
        if (got == (ssize_t)sizeof count) {
            client->timer_ms = 0;
        }
    }
}

static void watch_writing(struct kveik_client *client, bool writing)
{
    if (client->writing != writing) {
        struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0u),
                                    .data.fd = client->socket};
        (void)epoll_ctl(client->epoll, EPOLL_CTL_MOD, client->socket, &event);
        client->writing = writing;
    }
}

/* ---- going down ------------------------------------------------------------------------------ */

void client_down(struct kveik_client *client, int status, const char *text)
{
    if (client->socket >= 0) {
        (void)epoll_ctl(client->epoll, EPOLL_CTL_DEL, client->socket, NULL);
        (void)close(client->socket);
        client->socket = -1;
    }
    bool was_ready = client->state == CLIENT_READY;
    client->state = CLIENT_DOWN;
    client->writing = false;
    client->registering = 0;
    client->down_status = status == ST_LOST ? ST_UNAVAILABLE : status;
    (void)snprintf(client->down_text, sizeof client->down_text, "%s", text);
    frame_reader_finish(&client->reader);
    frame_writer_finish(&client->writer);
    uint64_t now = clock_ms();
    if (was_ready) {
        client->backoff_ms = 0; /* the first attempt at once */
    }
    client->retry_ms = now + client->backoff_ms;
    client->backoff_ms =
        client->backoff_ms == 0 ? client->backoff_first_ms : client->backoff_ms * 2;
    if (client->backoff_ms > BACKOFF_MAX_MS) {
        client->backoff_ms = BACKOFF_MAX_MS;
    }
    client_timer(client, client->retry_ms + 1);
    ops_fail_all(client, status, text);
    (void)pthread_cond_broadcast(&client->changed);
}

/* ---- sending --------------------------------------------------------------------------------- */

int client_send(struct kveik_client *client, const struct msg *msg, const int *descriptors,
                uint32_t descriptor_count, struct error *error)
{
    if (client->socket < 0) {
        return error_set(error, ST_UNAVAILABLE, "%s", client->down_text);
    }
    const void *payload = NULL;
    uint32_t bytes = 0;
    msg_arena_reset(&client->out);
    int status = msg_encode(msg, &client->out, &payload, &bytes, error);
    if (status != ST_OK) {
        /* what the checks refuse came from the caller's arguments */
        return status == ST_PROTOCOL ? (error->status = ST_INVALID) : status;
    }
    if (bytes > FRAME_PAYLOAD_MAX) {
        return error_set(error, ST_LIMIT, "the request takes %u bytes, at most %d", bytes,
                         FRAME_PAYLOAD_MAX);
    }
    status =
        frame_write(&client->writer, client->socket, payload, bytes, descriptors, descriptor_count);
    if (status == ST_PENDING) {
        watch_writing(client, true);
        return ST_OK;
    }
    if (status == ST_LOST) {
        client_down(client, ST_LOST, "the daemon hung up");
        return error_set(error, ST_UNAVAILABLE, "the daemon hung up");
    }
    if (status == ST_BUSY) {
        return error_set(error, ST_BUSY, "the daemon does not take more now");
    }
    return status == ST_OK ? ST_OK : error_set(error, status, "%s", status_text(status));
}

/* ---- coming up ------------------------------------------------------------------------------- */

static int hello_send(struct kveik_client *client, struct error *error)
{
    struct msg msg = {
        .request_id = ++client->ids,
        .kind = MSG_HELLO,
        .u.hello = {.version_min = MSG_VERSION,
                    .version_max = MSG_VERSION,
                    .client = client->client_name,
                    .instance_id = {.data = client->instance, .bytes = client->instance_bytes},
                    .token = {.data = client->token, .bytes = client->token_bytes}}};
    return client_send(client, &msg, NULL, 0, error);
}

static void connect_try(struct kveik_client *client, uint64_t now)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t bytes = strlen(client->socket_path);
    if (bytes >= sizeof address.sun_path) {
        client_down(client, ST_INVALID, "the socket's path is longer than 107 bytes");
        return;
    }
    (void)memcpy(address.sun_path, client->socket_path, bytes + 1);
    client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->socket < 0 ||
        connect(client->socket, (const struct sockaddr *)&address, sizeof address) != 0) {
        int cause = errno;
        struct error error = {0};
        int status = cause == EACCES || cause == EPERM ? ST_PERMISSION : ST_UNAVAILABLE;
        (void)error_errno(&error, status, cause, "no daemon answers");
        client_down(client, status, error.text);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = client->socket};
    if (frame_reader_init(&client->reader, FRAME_PAYLOAD_MAX) != ST_OK ||
        epoll_ctl(client->epoll, EPOLL_CTL_ADD, client->socket, &event) != 0) {
        client_down(client, ST_NO_MEMORY, "out of memory");
        return;
    }
    struct ucred cred = {0};
    socklen_t cred_bytes = sizeof cred;
    (void)getsockopt(client->socket, SOL_SOCKET, SO_PEERCRED, &cred, &cred_bytes);
    client->daemon_pid = cred.pid;
    client->state = CLIENT_HELLO;
    client->hello_ms = now + HELLO_TIMEOUT_MS;
    client_timer(client, client->hello_ms + 1);
    struct error error = {0};
    int status = hello_send(client, &error);
    if (status != ST_OK && client->socket >= 0) {
        client_down(client, status, error.text);
    }
}

static void ready(struct kveik_client *client)
{
    client->state = CLIENT_READY;
    client->backoff_ms = 0;
    client->epoch++;
    client->reconnects = client->epoch - 1;
    (void)pthread_cond_broadcast(&client->changed);
}

/* Layouts name spaces and regions, so they come when those were answered. */
static int layouts_again(struct kveik_client *client, struct error *error)
{
    for (uint32_t i = 0; i < client->layouts.count; i++) {
        struct client_layout *layout = client->layouts.items[i];
        int status = layout == NULL ? ST_OK : layout_send(client, layout, error);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

static int register_again(struct kveik_client *client, struct error *error)
{
    for (uint32_t i = 0; i < client->spaces.count; i++) {
        struct client_space *space = client->spaces.items[i];
        int status = space == NULL ? ST_OK : space_send(client, space, error);
        if (status != ST_OK) {
            return status;
        }
    }
    for (uint32_t i = 0; i < client->regions.count; i++) {
        struct client_region *region = client->regions.items[i];
        int status = region == NULL ? ST_OK : region_send(client, region, error);
        if (status != ST_OK) {
            return status;
        }
    }
    return ST_OK;
}

/* Called whenever an answer to a registration came: on to the layouts, then to READY. */
static void registering_step(struct kveik_client *client)
{
    struct error error = {0};
    if (client->state != CLIENT_REGISTERING || client->registering > 0) {
        return;
    }
    if (!client->layouts_sent) {
        client->layouts_sent = true;
        int status = layouts_again(client, &error);
        if (status != ST_OK && client->socket >= 0) {
            client_down(client, status, error.text);
            return;
        }
    }
    if (client->state == CLIENT_REGISTERING && client->registering == 0) {
        ready(client);
    }
}

static int on_hello_reply(struct kveik_client *client, const struct msg *msg, struct error *error)
{
    const struct msg_hello_reply *reply = &msg->u.hello_reply;
    if (client->state != CLIENT_HELLO) {
        return error_set(error, ST_PROTOCOL, "a second hello from the daemon");
    }
    if (reply->version != MSG_VERSION) {
        return error_set(error, ST_VERSION, "the daemon chose protocol version %u", reply->version);
    }
    client->version = reply->version;
    (void)memcpy(client->boot_id, reply->boot_id, sizeof client->boot_id);
    client->session_id = reply->session_id;
    client->keys_max = reply->keys_max;
    client->requests_max = reply->requests_max;
    if (client->requests_max_asked != 0 && client->requests_max_asked < client->requests_max) {
        client->requests_max = client->requests_max_asked;
    }
    (void)snprintf(client->daemon, sizeof client->daemon, "%s", reply->daemon);
    client->state = CLIENT_REGISTERING;
    client->registering = 0;
    client->layouts_sent = false;
    int status = register_again(client, error);
    if (status == ST_OK) {
        registering_step(client);
    }
    return status;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int on_notice(struct kveik_client *client, const struct msg_notice *notice,
                     struct error *error)
{
    if (notice->kind == NOTICE_SESSION_ENDED) {
        return error_set(error, notice->status != ST_OK ? notice->status : ST_LOST, "%s",
                         notice->text);
    }
    (void)client;
    return ST_OK; /* going down: end of file follows once requests in flight were answered */
}

static int on_frame(struct kveik_client *client, const struct frame *frame, struct error *error)
{
    struct msg msg;
    msg_arena_reset(&client->in);
    int status = msg_decode(frame->payload, frame->payload_bytes, &client->in, &msg, error);
    if (status != ST_OK) {
        return status;
    }
    if (msg.kind == MSG_NOTICE) {
        return on_notice(client, &msg.u.notice, error);
    }
    if (msg.kind == MSG_HELLO_REPLY) {
        return on_hello_reply(client, &msg, error);
    }
    status = op_dispatch(client, &msg, error);
    registering_step(client);
    return status;
}

/* The frames that were received. ST_OK, or why the connection must end. */
static int frames_handle(struct kveik_client *client, struct error *error)
{
    for (;;) {
        struct frame frame;
        int status = client->socket < 0 ? ST_PENDING : frame_next(&client->reader, &frame, error);
        if (status != ST_OK) {
            return status == ST_PENDING ? ST_OK : status;
        }
        status = on_frame(client, &frame, error);
        frame_finish(&frame);
        if (status != ST_OK) {
            return status;
        }
    }
}

static void read_all(struct kveik_client *client)
{
    struct error error = {0};
    for (uint32_t i = 0; client->socket >= 0 && i < RECEIVES_A_PUMP; i++) {
        int status = frame_receive(&client->reader, client->socket, &error);
        if (status == ST_PENDING) {
            return;
        }
        status = status == ST_OK ? frames_handle(client, &error) : status;
        if (status != ST_OK && client->socket >= 0) {
            /* a daemon that ends is down for a while; one that refuses says why */
            client_down(client, status, error.text);
        }
    }
}

void client_pump(struct kveik_client *client)
{
    uint64_t now = clock_ms();
    timer_drain(client, now);
    if (client->state == CLIENT_DOWN && now >= client->retry_ms) {
        connect_try(client, now);
    }
    if (client->writing && client->socket >= 0) {
        int status = frame_flush(&client->writer, client->socket);
        if (status == ST_OK) {
            watch_writing(client, false);
        } else if (status == ST_LOST) {
            client_down(client, ST_LOST, "the daemon hung up");
        }
    }
    read_all(client);
    if ((client->state == CLIENT_HELLO || client->state == CLIENT_REGISTERING) &&
        now > client->hello_ms) {
        client_down(client, ST_UNAVAILABLE, "the daemon accepts but does not answer");
    }
    ops_expire(client, now);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void follow(struct kveik_client *client, uint64_t until_ms)
{
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    (void)pthread_cond_timedwait(&client->changed, &client->lock, &until);
}

void client_sleep(struct kveik_client *client, uint64_t until_ms)
{
    if (client->leading) {
        follow(client, until_ms);
        return;
    }
    uint64_t now = clock_ms();
    int timeout = until_ms <= now ? 0 : (int)(until_ms - now > 3600000 ? 3600000 : until_ms - now);
    /* not the epoll descriptor: it stays readable while others leave completions unread */
    struct pollfd wait[2] = {
        {.fd = client->timer, .events = POLLIN},
        {.fd = client->socket,
         .events = (short)(POLLIN | (client->writing ? POLLOUT : 0))} /* -1 is passed over */
    };
    client->leading = true;
    client_unlock(client);
    (void)poll(wait, 2, timeout);
    (void)pthread_mutex_lock(&client->lock);
    client->leading = false;
    (void)pthread_cond_broadcast(&client->changed); /* somebody else may lead now */
}

int client_ready(struct kveik_client *client, struct error *error)
{
    if (client->state == CLIENT_READY) {
        return ST_OK;
    }
    client_pump(client);
    uint64_t until = clock_ms() + READY_PATIENCE_MS;
    while ((client->state == CLIENT_HELLO || client->state == CLIENT_REGISTERING) &&
           clock_ms() < until) {
        client_sleep(client, until);
        client_pump(client);
    }
    if (client->state == CLIENT_READY) {
        return ST_OK;
    }
    return error_set(error, client->state == CLIENT_DOWN ? client->down_status : ST_UNAVAILABLE,
                     "%s: %s", client->socket_path,
                     client->state == CLIENT_DOWN ? client->down_text
                                                  : "the handshake is under way");
}
