/* Connecting, closing, and what every other file needs of a client. */
#include "client/lib/client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"

/* ---- errors and locks ------------------------------------------------------------------------ */

int error_out(struct kveik_error *out, const struct error *error)
{
    if (out != NULL) {
        out->status = error->status;
        (void)snprintf(out->text, sizeof out->text, "%s", error->text);
    }
    return error->status;
}

int error_say(struct kveik_error *out, int status, const char *format, ...)
{
    if (out != NULL) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(out->text, sizeof out->text, format, args);
        va_end(args);
        out->status = status;
    }
    return status;
}

int client_lock(struct kveik_client *client)
{
    KVEIK_CHECK_OBJ(client, CLIENT_MAGIC);
    if (client->pid != getpid()) {
        return ST_FORKED;
    }
    (void)pthread_mutex_lock(&client->lock);
    return ST_OK;
}

void client_unlock(struct kveik_client *client)
{
    (void)pthread_mutex_unlock(&client->lock);
}

/* ---- tables ---------------------------------------------------------------------------------- */

int table_add(struct client_table *table, void *item, uint32_t *handle_out)
{
    for (uint32_t i = 0; i < table->count; i++) {
        if (table->items[i] == NULL) {
            table->items[i] = item;
            *handle_out = i;
            return ST_OK;
        }
    }
    if (table->count == table->capacity) {
        uint32_t capacity = table->capacity == 0 ? 16 : table->capacity * 2;
        void **grown = heap_realloc(table->items, capacity * sizeof *grown);
        if (grown == NULL) {
            return ST_NO_MEMORY;
        }
        table->items = grown;
        table->capacity = capacity;
    }
    table->items[table->count] = item;
    *handle_out = table->count++;
    return ST_OK;
}

void *table_get(const struct client_table *table, uint32_t handle)
{
    return handle < table->count ? table->items[handle] : NULL;
}

void table_clear(struct client_table *table, uint32_t handle)
{
    KVEIK_ASSERT(handle < table->count);
    table->items[handle] = NULL;
}

/* ---- creation -------------------------------------------------------------------------------- */

/* As kveikd chooses it, so that both meet with no configuration. */
static char *default_socket_path(void)
{
    char path[256];
    const char *set = secure_getenv("KVEIK_SOCKET");
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    if (set != NULL && set[0] != '\0') {
        return heap_strdup(set);
    }
    if (runtime != NULL && runtime[0] == '/') {
        (void)snprintf(path, sizeof path, "%s/kveik/engine.sock", runtime);
    } else if (geteuid() == 0) {
        (void)snprintf(path, sizeof path, "/run/kveik/engine.sock");
    } else {
        (void)snprintf(path, sizeof path, "/tmp/kveik-%u/engine.sock", geteuid());
    }
    return heap_strdup(path);
}

static int instance_set(struct kveik_client *client, const char *name)
{
    char own[MSG_INSTANCE_MAX + 1];
    if (name == NULL) {
        uint32_t chance = 0;
        if (getrandom(&chance, sizeof chance, 0) != (ssize_t)sizeof chance) {
            chance = (uint32_t)clock_ns(); /* a name only: another client's would join its leases */
        }
        (void)snprintf(own, sizeof own, "pid-%d-%08x", (int)client->pid, chance);
        name = own;
    }
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > MSG_INSTANCE_MAX) {
        return ST_INVALID;
    }
    (void)memcpy(client->instance, name, bytes);
    client->instance_bytes = (uint32_t)bytes;
    return ST_OK;
}

static int options_take(struct kveik_client *client, const struct kveik_options *options,
                        struct error *error)
{
    if (instance_set(client, options->instance) != ST_OK) {
        return error_set(error, ST_INVALID, "instance: give 1 to %d bytes", MSG_INSTANCE_MAX);
    }
    if (options->token_bytes > MSG_TOKEN_MAX) {
        return error_set(error, ST_INVALID, "token: at most %d bytes", MSG_TOKEN_MAX);
    }
    client->socket_path =
        options->socket_path != NULL ? heap_strdup(options->socket_path) : default_socket_path();
    client->client_name =
        heap_strdup(options->client_name != NULL ? options->client_name : "libkveik");
    if (options->token != NULL && options->token_bytes > 0) {
        client->token = heap_alloc(options->token_bytes);
        client->token_bytes = (uint32_t)options->token_bytes;
    }
    if (client->socket_path == NULL || client->client_name == NULL ||
        (client->token_bytes > 0 && client->token == NULL)) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    if (client->token_bytes > 0) {
        (void)memcpy(client->token, options->token, client->token_bytes);
    }
    client->backoff_first_ms =
        options->reconnect_backoff_ms != 0 ? options->reconnect_backoff_ms : 50;
    client->requests_max_asked = options->requests_max;
    client->wait_for_daemon = options->wait_for_daemon;
    return ST_OK;
}

static int watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int descriptors_init(struct kveik_client *client, struct error *error)
{
    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    client->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    client->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (client->epoll < 0 || client->timer < 0 || client->event < 0 ||
        watch(client->epoll, client->timer) != 0 || watch(client->epoll, client->event) != 0) {
        return error_errno(error, ST_IO, errno, "make the event descriptor");
    }
    return ST_OK;
}

static int client_init(struct kveik_client *client, const struct kveik_options *options,
                       struct error *error)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&client->lock, NULL);
    (void)pthread_cond_init(&client->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    client->magic = CLIENT_MAGIC;
    client->pid = getpid();
    client->socket = -1;
    client->epoll = -1;
    client->timer = -1;
    client->event = -1;
    queue_init(&client->done);
    for (uint32_t i = 0; i < OP_BUCKETS; i++) {
        queue_init(&client->ops[i]);
    }
    frame_writer_init(&client->writer, FRAME_QUEUE_MAX);
    int status = options_take(client, options, error);
    status = status != ST_OK ? status : descriptors_init(client, error);
    if (status == ST_OK && (msg_arena_init(&client->in, MSG_ARENA_BYTES_MAX) != ST_OK ||
                            msg_arena_init(&client->out, MSG_ARENA_BYTES_MAX) != ST_OK)) {
        status = error_set(error, ST_NO_MEMORY, "out of memory");
    }
    return status;
}

static void done_free(struct kveik_client *client)
{
    for (struct queue *item; (item = queue_pop_front(&client->done)) != NULL;) {
        op_free(CONTAINER_OF(item, struct op, link));
    }
}

static void fd_close(int fd)
{
    if (fd >= 0) {
        (void)close(fd);
    }
}

static void client_free(struct kveik_client *client)
{
    done_free(client);
    for (uint32_t b = 0; b < OP_BUCKETS; b++) {
        for (struct queue *item; (item = queue_pop_front(&client->ops[b])) != NULL;) {
            op_free(CONTAINER_OF(item, struct op, link));
        }
    }
    layouts_free(client);
    regions_free(client);
    for (uint32_t i = 0; i < client->spaces.count; i++) {
        heap_free(client->spaces.items[i]);
    }
    heap_free(client->spaces.items);
    frame_reader_finish(&client->reader);
    frame_writer_finish(&client->writer);
    msg_arena_finish(&client->in);
    msg_arena_finish(&client->out);
    fd_close(client->socket);
    fd_close(client->timer);
    fd_close(client->event);
    fd_close(client->epoll);
    heap_free(client->socket_path);
    heap_free(client->client_name);
    heap_free(client->token);
    (void)pthread_cond_destroy(&client->changed);
    (void)pthread_mutex_destroy(&client->lock);
    client->magic = 0;
    heap_free(client);
}

/* Waits until the session is up, or says why it is not. */
static int first_connection(struct kveik_client *client, uint32_t timeout_ms, struct error *error)
{
    uint64_t until = clock_ms() + timeout_ms;
    client_pump(client);
    while (client->state != CLIENT_READY && clock_ms() < until) {
        if (client->state == CLIENT_DOWN && client->down_status != ST_UNAVAILABLE) {
            break; /* refused, and it will be again */
        }
        uint64_t wake =
            client->state == CLIENT_DOWN && client->retry_ms < until ? client->retry_ms : until;
        client_sleep(client, wake);
        client_pump(client);
    }
    if (client->state == CLIENT_READY || client->wait_for_daemon) {
        return ST_OK;
    }
    if (client->state == CLIENT_DOWN) {
        return error_set(error, client->down_status, "%s: %s", client->socket_path,
                         client->down_text);
    }
    return error_set(error, ST_UNAVAILABLE, "%s: no answer within %u ms", client->socket_path,
                     timeout_ms);
}

int kveik_connect(const struct kveik_options *options, kveik_client **client_out,
                  struct kveik_error *error)
{
    if (options == NULL || client_out == NULL || options->size != sizeof *options) {
        return error_say(error, ST_INVALID,
                         "options: initialise them with KVEIK_OPTIONS_INIT, and give client_out");
    }
    struct kveik_client *client = heap_calloc(1, sizeof *client);
    if (client == NULL) {
        return error_say(error, ST_NO_MEMORY, "out of memory");
    }
    struct error cause = {0};
    int status = client_init(client, options, &cause);
    if (status == ST_OK) {
        (void)client_lock(client);
        uint32_t timeout_ms = options->connect_timeout_ms != 0 ? options->connect_timeout_ms : 1000;
        status = first_connection(client, timeout_ms, &cause);
        client_unlock(client);
    }
    if (status != ST_OK) {
        cause.status = status;
        client_free(client);
        return error_out(error, &cause);
    }
    *client_out = client;
    return ST_OK;
}

/* Tells the daemon that no more will come and waits for its end of file: it closes once its copies
 * have drained, so after this nothing touches our memory. */
static void drain(struct kveik_client *client)
{
    if (client->socket < 0) {
        return;
    }
    (void)shutdown(client->socket, SHUT_WR);
    uint64_t until = clock_ms() + CLOSE_TIMEOUT_MS;
    uint8_t waste[4096];
    for (uint64_t now = clock_ms(); now < until; now = clock_ms()) {
        ssize_t got = recv(client->socket, waste, sizeof waste, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            return;
        }
        if (got < 0) {
            struct pollfd wait = {.fd = client->socket, .events = POLLIN};
            (void)poll(&wait, 1, (int)(until - now));
        }
    }
}

void kveik_close(kveik_client *client)
{
    if (client == NULL) {
        return;
    }
    if (client_lock(client) != ST_OK) {
        client_free(
            client); /* a forked child: closes its copies of the descriptors, says nothing */
        return;
    }
    drain(client);
    client_down(client, ST_CANCELLED, "the client was closed");
    client_unlock(client);
    client_free(client);
}

int kveik_info(kveik_client *client, struct kveik_info *info_out)
{
    if (info_out == NULL || info_out->size != sizeof *info_out) {
        return ST_INVALID;
    }
    int status = client_lock(client);
    if (status != ST_OK) {
        return status;
    }
    client_pump(client);
    info_out->connected = client->state == CLIENT_READY;
    info_out->protocol_version = client->version;
    (void)memcpy(info_out->boot_id, client->boot_id, sizeof info_out->boot_id);
    info_out->session_id = client->session_id;
    info_out->reconnects = client->reconnects;
    info_out->requests_max = client->requests_max;
    info_out->keys_max = client->keys_max;
    (void)snprintf(info_out->daemon, sizeof info_out->daemon, "%s", client->daemon);
    (void)snprintf(info_out->instance, sizeof info_out->instance, "%.*s",
                   (int)client->instance_bytes, (const char *)client->instance);
    client_unlock(client);
    return ST_OK;
}

int kveik_event_fd(kveik_client *client)
{
    if (client_lock(client) != ST_OK) {
        return -1;
    }
    client->event_used = true;
    client_unlock(client);
    return client->epoll;
}
