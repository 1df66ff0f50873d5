/* Building, running, stopping: parts are made bottom-up and torn down in the mirror order. */
#include "daemon/server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/size.h"
#include "daemon/server/state.h"

/* ---- stopping -------------------------------------------------------------------------------- */

static void close_handles(struct server *server)
{
    if (server->stopped) {
        return;
    }
    server->stopped = true;
    uv_close((uv_handle_t *)&server->copy_wake, NULL);
    uv_close((uv_handle_t *)&server->term, NULL);
    uv_close((uv_handle_t *)&server->interrupt, NULL);
    uv_close((uv_handle_t *)&server->stop_timer, NULL);
    uv_close((uv_handle_t *)&server->wait_timer, NULL);
    uv_close((uv_handle_t *)&server->keep.timer, NULL);
    server_disk_close_handles(server);
}

static uint32_t requests_in_flight(const struct server *server)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    return gauges.requests;
}

/* Every tick of a stop: wait for requests within the grace, then end the sessions, then leave. */
static void on_stop_tick(uv_timer_t *timer)
{
    struct server *server = CONTAINER_OF(timer, struct server, stop_timer);
    server->stop_ticks++;
    bool patience = (uint64_t)server->stop_ticks * STOP_TICK_MS < server->settings->stop_grace_ms;
    if ((requests_in_flight(server) > 0 || server_disk_busy(server, true)) && patience) {
        return;
    }
    engine_end_all(server->engine, ST_SHUTDOWN, "the daemon is shutting down");
    verify_cancel(server);
    if (server->disk != NULL && !server->disk_stopped) { /* nothing more is begun */
        server->disk_stopped = true;
        struct core_event event = {.kind = EVENT_DISK_STATE};
        server_step(server, &event, NULL);
    }
    if (engine_connections(server->engine) == 0 && !server_disk_busy(server, false) &&
        !verify_busy(server)) {
        close_handles(server);
    }
}

void server_stop(struct server *server)
{
    KVEIK_CHECK_OBJ(server, SERVER_MAGIC);
    if (server->stopping) {
        return;
    }
    server->stopping = true;
    log_write(server->log, LOG_LEVEL_INFO, "server", "stopping: %u requests in flight, %u sessions",
              requests_in_flight(server), engine_connections(server->engine));
    engine_stop_listening(server->engine);
    struct msg notice = {
        .kind = MSG_NOTICE,
        .u.notice = {.kind = NOTICE_GOING_DOWN, .status = ST_SHUTDOWN, .text = "going down"}};
    for (uint32_t i = 0; i < server->settings->sessions_max; i++) {
        if (server->sessions[i] != NULL) {
            engine_send(server->sessions[i]->conn, &notice);
        }
    }
    (void)uv_timer_start(&server->stop_timer, on_stop_tick, 0, STOP_TICK_MS);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct server *server = handle->data;
    log_write(server->log, LOG_LEVEL_INFO, "server", "%s received",
              number == SIGTERM ? "SIGTERM" : "SIGINT");
    server_stop(server);
}

/* ---- building -------------------------------------------------------------------------------- */

static void on_copy_wake(uv_async_t *async)
{
    server_reap(CONTAINER_OF(async, struct server, copy_wake));
}

/* From a copy thread. */
static void wake_loop(void *arg)
{
    struct server *server = arg;
    (void)uv_async_send(&server->copy_wake);
}

static int loop_init(struct server *server, struct error *error)
{
    int failed = uv_loop_init(&server->loop);
    if (failed != 0) {
        return error_set(error, ST_IO, "event loop: %s", uv_strerror(failed));
    }
    server->loop_ready = true;
    (void)uv_timer_init(&server->loop, &server->stop_timer);
    (void)uv_timer_init(&server->loop, &server->keep.timer);
    (void)wait_init(server);
    (void)uv_signal_init(&server->loop, &server->term);
    (void)uv_signal_init(&server->loop, &server->interrupt);
    failed = uv_async_init(&server->loop, &server->copy_wake, on_copy_wake);
    if (failed != 0) {
        return error_set(error, ST_IO, "event loop: %s", uv_strerror(failed));
    }
    server->term.data = server;
    server->interrupt.data = server;
    (void)uv_signal_start(&server->term, on_signal, SIGTERM);
    (void)uv_signal_start(&server->interrupt, on_signal, SIGINT);
    return ST_OK;
}

static int core_init(struct server *server, struct error *error)
{
    const struct settings *settings = server->settings;
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed ||
        getrandom(server->boot_id, sizeof server->boot_id, 0) != MSG_BOOT_ID_BYTES ||
        getrandom(server->salt, sizeof server->salt, 0) != (ssize_t)sizeof server->salt) {
        return error_errno(error, ST_IO, errno, "getrandom");
    }
    uint64_t bytes = settings->cpu_bytes != 0 ? settings->cpu_bytes : pool_default_budget(0);
    server->pool_bytes = bytes / POOL_GRANULE_BYTES * POOL_GRANULE_BYTES;
    if (server->pool_bytes == 0) {
        return error_set(error, ST_INVALID, "cpu-bytes is %llu: at least 2MiB is needed",
                         (unsigned long long)bytes);
    }
    server->failed_slabs =
        heap_calloc(server->pool_bytes / POOL_GRANULE_BYTES, sizeof *server->failed_slabs);
    if (server->failed_slabs == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    struct core_limits limits = {.pool_bytes = server->pool_bytes,
                                 .granule_bytes = POOL_GRANULE_BYTES,
                                 .keys_max = (uint64_t)settings->blocks_max * 4 + BLOCK_GRAINS_MAX,
                                 .blocks_max = settings->blocks_max,
                                 .parts_max = settings->blocks_max,
                                 .sessions_max = settings->sessions_max,
                                 .requests_max = settings->requests_max,
                                 .instances_max = settings->sessions_max,
                                 .spaces_max = 4096,
                                 .shapes_max = SHAPES_MAX,
                                 .leases_max = settings->leases_max,
                                 .tenants_max = 256,
                                 .instance_lease_bytes_max =
                                     server->pool_bytes * settings->lease_percent / 100,
                                 .high_percent = settings->cpu_high_percent,
                                 .low_percent = settings->cpu_low_percent,
                                 .hash_seed = seed,
                                 .verifies_max = settings_keep(settings) ? VERIFIES_MAX : 0};
    int status = server_disk_limits(server, &limits.disk, error);
    status = status != ST_OK ? status : core_create(&limits, &server->core, error);
    if (status != ST_OK) {
        return status;
    }
    struct pool_options pool = {.budget_bytes = server->pool_bytes,
                                .reserve_bytes = core_reserve_bytes(&limits),
                                .pages = (enum pool_pages)settings->cpu_pages,
                                .prefault = settings->cpu_prefault,
                                .lock = settings->cpu_lock};
    if (server_disk_tables(server, &limits) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "out of memory for the tiers");
    }
    status = keep_pool_create(server, &pool, error);
    if (status != ST_OK) {
        return status;
    }
    keep_load_slabs(server);
    status = server_disk_init(server, &limits, error);
    if (status == ST_OK && server->disk != NULL) {
        (void)memcpy(server->salt, disk_secret(server->disk), sizeof server->salt);
    }
    status = status != ST_OK ? status : keep_load_parts(server, error);
    if (status == ST_OK) {
        verify_begin_ahead(server);
    }
    return status;
}

uint32_t server_copy_threads(const struct settings *settings)
{
    if (settings->copy_threads != 0) {
        return settings->copy_threads;
    }
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    long threads = processors / 2;
    return (uint32_t)(threads < 1 ? 1 : (threads > 8 ? 8 : threads));
}

static int tables_init(struct server *server)
{
    const struct settings *settings = server->settings;
    server->sessions = heap_calloc(settings->sessions_max, sizeof(struct server_session *));
    server->session_free = heap_calloc(settings->sessions_max, sizeof *server->session_free);
    server->requests = heap_calloc(settings->requests_max, sizeof *server->requests);
    server->request_free = heap_calloc(settings->requests_max, sizeof *server->request_free);
    server->shapes = heap_calloc(SHAPES_MAX, sizeof *server->shapes);
    if (server->sessions == NULL || server->session_free == NULL || server->requests == NULL ||
        server->request_free == NULL || server->shapes == NULL) {
        return ST_NO_MEMORY;
    }
    for (uint32_t i = settings->sessions_max; i-- > 0;) {
        server->session_free[server->session_free_count++] = i;
    }
    for (uint32_t i = settings->requests_max; i-- > 0;) {
        server->request_free[server->request_free_count++] = i;
    }
    return ST_OK;
}

/* The folder of the socket: ours alone when we make it. */
static int runtime_folder(const char *socket_path, struct error *error)
{
    char folder[128];
    (void)snprintf(folder, sizeof folder, "%s", socket_path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL || slash == folder) {
        return ST_OK;
    }
    *slash = '\0';
    if (mkdir(folder, 0755) != 0 && errno != EEXIST) {
        return error_errno(error, ST_IO, errno, "make the socket's folder %s", folder);
    }
    struct stat info;
    if (lstat(folder, &info) != 0 || !S_ISDIR(info.st_mode)) {
        return error_set(error, ST_IO, "the socket's folder %s is no folder", folder);
    }
    if (info.st_uid != geteuid() && info.st_uid != 0) {
        return error_set(error, ST_PERMISSION,
                         "the socket's folder %s belongs to another user (%u): choose another with "
                         "--socket",
                         folder, info.st_uid);
    }
    return ST_OK;
}

/* The mode 600 is written as the decimal number 600. */
static uint32_t octal_mode(uint64_t digits)
{
    return (uint32_t)(digits / 100 % 10 * 64 + digits / 10 % 10 * 8 + digits % 10);
}

static int engine_init(struct server *server, struct error *error)
{
    if (settings_socket_path(server->settings, server->socket_path, sizeof server->socket_path) !=
        ST_OK) {
        return error_set(error, ST_INVALID, "the socket's path is too long: at most 107 bytes");
    }
    int status = runtime_folder(server->socket_path, error);
    if (status != ST_OK) {
        return status;
    }
    struct engine_options options = {.socket_path = server->socket_path,
                                     .connections_max = server->settings->sessions_max,
                                     .frame_bytes_max = FRAME_PAYLOAD_MAX,
                                     .stall_ms = server->settings->stall_ms,
                                     .socket_mode = octal_mode(server->settings->socket_mode)};
    static const struct engine_handler handler = {.message = server_on_message,
                                                  .ended = server_on_ended};
    return engine_create(&server->loop, &options, &handler, server, server->log, &server->engine,
                         error);
}

/* Each session holds a few descriptors and one for every file that its regions lie in. A quarter
 * is kept for connections, so that regions cannot shut everybody else out. */
static void raise_descriptor_limit(struct server *server)
{
    struct rlimit limit;
    server->descriptors_max = UINT32_MAX;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return;
    }
    struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    if (limit.rlim_cur < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &raised) == 0) {
        limit = raised;
    }
    if (limit.rlim_cur / 4 * 3 < UINT32_MAX) {
        server->descriptors_max = (uint32_t)(limit.rlim_cur / 4 * 3);
    }
}

static int server_init(struct server *server, struct error *error)
{
    int status = loop_init(server, error);
    status = status != ST_OK ? status : tables_init(server);
    if (status == ST_NO_MEMORY) {
        return error_set(error, ST_NO_MEMORY, "out of memory for sessions and requests");
    }
    status = status != ST_OK ? status : core_init(server, error);
    if (status != ST_OK) {
        return status;
    }
    struct copy_options copies = {.workers = server_copy_threads(server->settings),
                                  .jobs_max = server->settings->requests_max,
                                  .inline_bytes = server->settings->copy_inline_bytes,
                                  .wake = wake_loop,
                                  .wake_arg = server};
    status = copy_engine_create(&copies, &server->copies, error);
    status = status != ST_OK ? status : engine_init(server, error);
    return status != ST_OK ? status : keep_begin(server, error);
}

int server_create(const struct settings *settings, struct log *log, struct server **server_out,
                  struct error *error)
{
    struct server *server = heap_calloc(1, sizeof *server);
    if (server == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    server->magic = SERVER_MAGIC;
    server->settings = settings;
    server->log = log;
    server->began_ms = clock_ms();
    server->bytes_per_us = 4000.0; /* until copies were measured: a slow machine's 4 GB/s */
    queue_init(&server->finished);
    raise_descriptor_limit(server);
    int status = server_init(server, error);
    if (status != ST_OK) {
        server_destroy(server);
        return status;
    }
    char size[SIZE_TEXT_BYTES];
    size_format_short(server->pool_bytes, size);
    log_write(log, LOG_LEVEL_INFO, "server", "kveikd %s: %s of CPU memory, %u copy threads, at %s",
              KVEIK_VERSION, size, server_copy_threads(settings), server->socket_path);
    *server_out = server;
    return ST_OK;
}

int server_run(struct server *server)
{
    KVEIK_CHECK_OBJ(server, SERVER_MAGIC);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    keep_save(server);
    log_write(server->log, LOG_LEVEL_INFO, "server", "stopped");
    return ST_OK;
}

void server_destroy(struct server *server)
{
    if (server == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(server, SERVER_MAGIC);
    if (server->engine != NULL) {
        engine_stop_listening(server->engine);
    }
    if (server->loop_ready) {
        close_handles(server);
        (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    }
    engine_destroy(server->engine);
    keep_end(server);
    server_disk_finish(server);
    copy_engine_destroy(server->copies);
    pool_destroy(server->pool);
    core_destroy(server->core);
    heap_free(server->failed_slabs);
    heap_free(server->shapes);
    heap_free(server->request_free);
    heap_free(server->requests);
    heap_free(server->session_free);
    heap_free(server->sessions);
    if (server->loop_ready) {
        (void)uv_loop_close(&server->loop);
    }
    server->magic = 0;
    heap_free(server);
}
