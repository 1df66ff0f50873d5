/* A client's life: connect, enter and leave, info, close. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/heap.h"
#include "kveik/kveik.h"

/* ---- enter and leave ------------------------------------------------------------------------- */

int client_enter(struct kveik_client *client)
{
    if (client == NULL) {
        return ST_INVALID;
    }
    KVEIK_CHECK_OBJ(client, CLIENT_MAGIC);
    if (client->pid != getpid()) {
        return ST_FORKED; /* the mutex may be held by a thread that does not exist here */
    }
    (void)pthread_mutex_lock(&client->mutex);
    client->users++;
    return ST_OK;
}

void client_leave(struct kveik_client *client)
{
    KVEIK_ASSERT(client->users > 0);
    client->users--;
    if (client->closing && client->users == 0) {
        client->progress = true;
    }
    client_publish(client);
    if (!client->leader && client->followers > 0) {
        (void)pthread_cond_signal(&client->changed); /* somebody must lead now */
    }
    (void)pthread_mutex_unlock(&client->mutex);
}

int client_return(struct kveik_client *client, int status, const struct error *error,
                  struct kveik_error *error_out)
{
    client_leave(client);
    return report(status, error, error_out);
}

/* ---- create ---------------------------------------------------------------------------------- */

static int watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int open_descriptors(struct kveik_client *client, struct error *error)
{
    client->outer = epoll_create1(EPOLL_CLOEXEC);
    client->inner = epoll_create1(EPOLL_CLOEXEC);
    client->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    client->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (client->outer < 0 || client->inner < 0 || client->timer < 0 || client->event < 0 ||
        client->wake < 0 || watch(client->inner, client->timer) != 0 ||
        watch(client->inner, client->wake) != 0 || watch(client->outer, client->inner) != 0 ||
        watch(client->outer, client->event) != 0) {
        return error_errno(error, ST_IO, errno, "descriptors of the client");
    }
    return ST_OK;
}

static void close_descriptors(struct kveik_client *client)
{
    const int descriptors[] = {client->outer, client->inner, client->timer, client->event,
                               client->wake};
    for (size_t i = 0; i < ARRAY_COUNT(descriptors); i++) {
        if (descriptors[i] >= 0) {
            (void)close(descriptors[i]);
        }
    }
}

static int init_locks(struct kveik_client *client, struct error *error)
{
    pthread_condattr_t attributes;
    int failed = pthread_condattr_init(&attributes);
    if (failed == 0) {
        (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        failed = pthread_cond_init(&client->changed, &attributes);
        (void)pthread_condattr_destroy(&attributes);
    }
    /* with default attributes, mutexes need no memory and cannot fail */
    (void)pthread_mutex_init(&client->mutex, NULL);
    (void)pthread_mutex_init(&client->memory_mutex, NULL);
    return failed == 0 ? ST_OK : error_errno(error, ST_NO_MEMORY, failed, "condition variable");
}

static void random_instance(char out[MSG_INSTANCE_MAX + 1])
{
    uint8_t bytes[16];
    random_bytes(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

static int take_instance(struct kveik_client *client, const char *instance, struct error *error)
{
    if (instance == NULL) {
        random_instance(client->instance);
        return ST_OK;
    }
    size_t length = strnlen(instance, MSG_INSTANCE_MAX + 1);
    if (length == 0 || length > MSG_INSTANCE_MAX) {
        return error_set(error, ST_INVALID, "instance: must have 1 to %d bytes", MSG_INSTANCE_MAX);
    }
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)instance[i] < 0x20 || instance[i] == 0x7f) {
            return error_set(error, ST_INVALID, "instance: a control character at byte %zu", i);
        }
    }
    (void)memcpy(client->instance, instance, length + 1);
    return ST_OK;
}

static int take_options(struct kveik_client *client, const struct kveik_options *options,
                        struct error *error)
{
    if (options->token_bytes > MSG_TOKEN_MAX ||
        (options->token == NULL && options->token_bytes > 0)) {
        return error_set(error, ST_INVALID, "token: at most %d bytes", MSG_TOKEN_MAX);
    }
    if (options->token != NULL) {
        (void)memcpy(client->token, options->token, options->token_bytes);
        client->token_bytes = (uint32_t)options->token_bytes;
    }
    struct sockaddr_un address;
    if (options->socket_path != NULL && strlen(options->socket_path) >= sizeof address.sun_path) {
        return error_set(error, ST_INVALID, "socket_path: longer than %zu bytes",
                         sizeof address.sun_path - 1);
    }
    if (options->socket_path != NULL) {
        client->socket_path = heap_strdup(options->socket_path);
    }
    client->client_name =
        heap_strdup(options->client_name != NULL ? options->client_name : "libkveik");
    if (client->client_name == NULL ||
        (options->socket_path != NULL && client->socket_path == NULL)) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    client->connect_timeout_ms =
        options->connect_timeout_ms != 0 ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    client->backoff_first_ms =
        options->reconnect_backoff_ms != 0 ? options->reconnect_backoff_ms : BACKOFF_FIRST_MS;
    client->requests_wanted = options->requests_max;
    return take_instance(client, options->instance, error);
}

/* Everything that client_destroy() looks at, before anything can fail. */
static struct kveik_client *client_alloc(void)
{
    struct kveik_client *client = heap_calloc(1, sizeof *client);
    if (client == NULL) {
        return NULL;
    }
    client->magic = CLIENT_MAGIC;
    client->pid = getpid();
    client->outer = -1;
    client->inner = -1;
    client->timer = -1;
    client->event = -1;
    client->wake = -1;
    client->connection.socket = -1;
    queue_init(&client->flight);
    queue_init(&client->ready);
    queue_init(&client->free);
    queue_init(&client->allocations);
    queue_init(&client->areas);
    handles_init(&client->spaces, SPACES_MAX);
    handles_init(&client->regions, LAYOUT_REGIONS_MAX);
    handles_init(&client->layouts, LAYOUTS_MAX);
    return client;
}

/* Frees everything; talks to nobody, so that a forked child may call it. */
static void client_destroy(struct kveik_client *client)
{
    for (uint32_t i = 0; i < client->layouts.capacity; i++) {
        client_layout_destroy(handles_at(&client->layouts, i));
    }
    for (uint32_t i = 0; i < client->regions.capacity; i++) {
        client_region_destroy(handles_at(&client->regions, i));
    }
    for (uint32_t i = 0; i < client->spaces.capacity; i++) {
        heap_free(handles_at(&client->spaces, i));
    }
    handles_finish(&client->layouts);
    handles_finish(&client->regions);
    handles_finish(&client->spaces);
    ops_finish(client);
    memory_finish(client);
    if (client->connection.socket >= 0) {
        (void)close(client->connection.socket);
        frame_reader_finish(&client->connection.reader);
        frame_writer_finish(&client->connection.writer);
    }
    msg_arena_finish(&client->in);
    msg_arena_finish(&client->out);
    close_descriptors(client);
    heap_free(client->socket_path);
    heap_free(client->client_name);
    client->magic = 0;
    heap_free(client);
}

static int client_create(const struct kveik_options *options, struct kveik_client **client_out,
                         struct error *error)
{
    struct kveik_client *client = client_alloc();
    if (client == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    int status = take_options(client, options, error);
    if (status == ST_OK) {
        status = open_descriptors(client, error);
    }
    if (status == ST_OK && (msg_arena_init(&client->in, MSG_ARENA_BYTES_MAX) != ST_OK ||
                            msg_arena_init(&client->out, MSG_ARENA_BYTES_MAX) != ST_OK)) {
        status = error_set(error, ST_NO_MEMORY, "out of memory");
    }
    if (status == ST_OK) {
        status = init_locks(client, error);
    }
    if (status != ST_OK) {
        client_destroy(client);
        return status;
    }
    *client_out = client;
    return ST_OK;
}

/* ---- connect --------------------------------------------------------------------------------- */

static bool is_settled(const struct kveik_client *client, const void *arg)
{
    (void)arg;
    return client->connection.state == STATE_READY || client->connection.state == STATE_DOWN;
}

int kveik_connect(const struct kveik_options *options, kveik_client **client_out,
                  struct kveik_error *error_out)
{
    struct error error = {0};
    struct kveik_options ours = KVEIK_OPTIONS_INIT;
    if (client_out == NULL) {
        return report(ST_INVALID, NULL, error_out);
    }
    if (options != NULL) {
        int taken = take_struct(&ours, sizeof ours, options, "KVEIK_OPTIONS_INIT", &error);
        if (taken != ST_OK) {
            return report(taken, &error, error_out);
        }
    }
    struct kveik_client *client = NULL;
    int status = client_create(&ours, &client, &error);
    if (status != ST_OK || client == NULL) {
        return report(status, &error, error_out);
    }
    KVEIK_ASSERT(client != NULL);
    (void)client_enter(client);
    client_work(client);
    (void)client_await(client, is_settled, NULL, clock_ms() + client->connect_timeout_ms);
    const struct connection *connection = &client->connection;
    status = ST_OK;
    if (connection->state != STATE_READY && !ours.wait_for_daemon) {
        status = connection->error.status != ST_OK
                     ? connection->error.status
                     : error_set(&error, ST_UNAVAILABLE, "the daemon does not answer the hello");
        if (connection->error.status != ST_OK) {
            error = connection->error;
        }
    }
    client_leave(client);
    if (status != ST_OK) {
        kveik_close(client);
        return report(status, &error, error_out);
    }
    *client_out = client;
    return ST_OK;
}

int kveik_info(kveik_client *client, struct kveik_info *info_out)
{
    int status = info_out == NULL ? ST_INVALID : client_enter(client);
    if (status != ST_OK) {
        return status;
    }
    client_work(client);
    const struct connection *connection = &client->connection;
    struct kveik_info info = {.size = sizeof info,
                              .connected = connection->state == STATE_READY,
                              .protocol_version = connection->version,
                              .session_id = connection->session_id,
                              .reconnects = client->reconnects,
                              .requests_max = op_user_limit(client),
                              .keys_max = connection->keys_max};
    (void)memcpy(info.boot_id, connection->boot_id, sizeof info.boot_id);
    (void)memcpy(info.daemon, connection->daemon, sizeof info.daemon);
    (void)memcpy(info.instance, client->instance, sizeof info.instance);
    client_leave(client);
    return give_struct(&info, sizeof info, info_out);
}

int kveik_event_fd(kveik_client *client)
{
    if (client == NULL) {
        return ST_INVALID;
    }
    KVEIK_CHECK_OBJ(client, CLIENT_MAGIC);
    return client->pid == getpid() ? client->outer : ST_FORKED;
}

/* ---- close ----------------------------------------------------------------------------------- */

static bool is_down(const struct kveik_client *client, const void *arg)
{
    (void)arg;
    return client->connection.state == STATE_DOWN;
}

static bool is_deserted(const struct kveik_client *client, const void *arg)
{
    (void)arg;
    return client->users == 1;
}

/* Ends the session and every wait. Inside the client, and still there afterwards. */
static void shut_down(struct kveik_client *client)
{
    client->closing = true;
    client->progress = true;
    if (client->connection.state != STATE_DOWN) {
        /* the daemon closes its side once no copy touches our memory any more */
        connection_drain(client);
        (void)client_await(client, is_down, NULL, clock_ms() + CLOSE_TIMEOUT_MS);
    }
    /* a silent daemon may still copy: whoever waits is told so */
    op_end_all(client, client->connection.state == STATE_DOWN ? ST_CANCELLED : ST_STUCK, NULL);
}

void kveik_shutdown(kveik_client *client)
{
    if (client != NULL && client_enter(client) == ST_OK) {
        shut_down(client);
        client->progress = true;
        client_leave(client);
    }
}

void kveik_close(kveik_client *client)
{
    if (client == NULL) {
        return;
    }
    int status = client_enter(client);
    if (status == ST_FORKED) {
        /* the parent's session goes on: our copies of its descriptors are closed, nothing is said
         */
        client_destroy(client);
        return;
    }
    shut_down(client);
    while (client_await(client, is_deserted, NULL, clock_ms() + CLOSE_TIMEOUT_MS) != ST_OK) {
        client->progress = true; /* threads inside see `closing` when they wake */
    }
    client_leave(client);
    (void)pthread_cond_destroy(&client->changed);
    (void)pthread_mutex_destroy(&client->mutex);
    (void)pthread_mutex_destroy(&client->memory_mutex);
    client_destroy(client);
}
