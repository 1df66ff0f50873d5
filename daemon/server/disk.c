/*
 * The disk tier's side of the loop: the core's stores and loads become the tier's writes and reads,
 * what comes back becomes events. A tier that refuses at once is told to the core after the actions
 * in hand, like one that fails later.
 */
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/size.h"
#include "daemon/server/state.h"

enum {
    DISK_SHARE = 4,         /* of what is free: the default of disk-bytes */
    STORE_POOL_SHARE = 8,   /* of the CPU tier may be in flight to disk … */
    LOAD_POOL_SHARE = 4,    /* … or be read ahead */
    RELEASE_GRACE_MS = 3000 /* a stop waits so long for what the device has in hand */
};

static const uint64_t disk_bytes_default_max = UINT64_C(64) << 30;

/* ---- what the core asks for ------------------------------------------------------------------ */

void disk_store(struct server *server, const struct core_action *action)
{
    struct server_store *store = &server->stores[action->job];
    const struct core_stored *stored = action->stored;
    struct disk_part part = {.keys = stored->keys,
                             .key_count = stored->key_count,
                             .grains = stored->grains,
                             .tail_tokens = stored->tail_tokens,
                             .parent = stored->parent,
                             .origin = stored->origin,
                             .origin_bytes = stored->origin_bytes,
                             .pushed_s = (uint64_t)time(NULL)};
    store->write = (struct disk_write){
        .from = stored->move ? NULL : pool_address(server->pool, action->offset),
        .room_bytes = core_room_bytes(action->bytes),
        .source = {.segment = action->place.segment, .offset = action->place.offset},
        .source_seal = action->seal,
        .bytes = action->bytes,
        .survivor = stored->survivor,
        .owner = store};
    int status = shape_kind(server, action->handle, &part.kind);
    if (status == ST_OK) {
        status = disk_write(server->disk, &store->write, &part);
    }
    if (status != ST_OK) {
        store->write.status = status;
        queue_push_back(&server->failed_stores, &store->link);
        (void)uv_async_send(&server->disk_wake);
    }
}

void disk_load(struct server *server, const struct core_action *action)
{
    struct server_load *load = &server->loads[action->job];
    queue_init(&load->waits);
    (void)memcpy(load->key, action->key, CORE_KEY_BYTES);
    int status = ST_NO_MEMORY; /* its slab could not be had */
    if (pool_committed(server->pool, action->offset)) {
        load->read = (struct disk_read){
            .place = {.segment = action->place.segment, .offset = action->place.offset},
            .seal = action->seal,
            .bytes = action->bytes,
            .to = pool_address(server->pool, action->offset),
            .room_bytes = core_room_bytes(action->bytes),
            .owner = load};
        load->began_ns = clock_ns();
        status = disk_read(server->disk, &load->read);
    }
    if (status != ST_OK) {
        load->read.status = status == ST_BUSY ? ST_UNAVAILABLE : status;
        queue_push_back(&server->failed_loads, &load->link);
        (void)uv_async_send(&server->disk_wake);
    }
}

void disk_drop(struct server *server, const struct core_action *action)
{
    if (action->kind == ACTION_FORGET) {
        disk_forget(server->disk, (struct disk_place){.segment = action->place.segment,
                                                      .offset = action->place.offset});
    } else {
        disk_free_segment(server->disk, action->handle);
    }
}

/* ---- what comes back ------------------------------------------------------------------------- */

static void store_ended(struct server *server, struct server_store *store)
{
    const struct disk_write *write = &store->write;
    struct core_event event = {
        .kind = EVENT_STORE_DONE,
        .u.store_done = {.store = (uint32_t)(store - server->stores),
                         .status = write->status,
                         .place = {.segment = write->place.segment, .offset = write->place.offset},
                         .seal = write->seal,
                         .epoch = write->epoch}};
    server_step(server, &event, NULL);
}

void key_text(const uint8_t *key, char out[KEY_TEXT_BYTES])
{
    for (uint32_t i = 0; i < CORE_KEY_BYTES; i++) {
        static const char digits[] = "0123456789abcdef";
        out[2 * i] = digits[key[i] >> 4];
        out[2 * i + 1] = digits[key[i] & 15];
    }
    out[2 * CORE_KEY_BYTES] = '\0';
}

static void say_damaged(struct server *server, const struct server_load *load)
{
    char key[KEY_TEXT_BYTES];
    key_text(load->key, key);
    const char *what = load->read.status == ST_CORRUPT ? "is damaged on disk" : "cannot be read";
    log_write(server->log, LOG_LEVEL_WARN, "disk",
              "block %s %s (segment %u, offset %llu): a miss from now on", key, what,
              load->read.place.segment, (unsigned long long)load->read.place.offset * DISK_UNIT);
}

void load_finish(struct server *server, struct server_load *load, int status)
{
    struct queue waits;
    queue_init(&waits);
    for (struct queue *item; (item = queue_pop_front(&load->waits)) != NULL;) {
        queue_push_back(&waits, item); /* the core may use the load's number again */
    }
    struct core_event event = {
        .kind = EVENT_LOAD_DONE,
        .u.load_done = {.load = (uint32_t)(load - server->loads), .status = status}};
    server_step(server, &event, NULL);
    load_ended(&waits, status);
}

static void read_ended(struct server *server, struct server_load *load)
{
    int status = load->read.status;
    if (status == ST_CORRUPT || status == ST_IO) {
        say_damaged(server, load);
    } else if (status == ST_OK && load->read.bytes >= 64u << 10) {
        double speed =
            (double)load->read.bytes / ((double)(clock_ns() - load->began_ns) / 1000.0 + 1.0);
        server->disk_bytes_per_us += (speed - server->disk_bytes_per_us) / 16.0;
    }
    load_finish(server, load, status);
}

static void on_state(struct server *server, const struct disk_state *state)
{
    log_write(server->log, state->readable && state->writable ? LOG_LEVEL_INFO : LOG_LEVEL_WARN,
              "disk", "the tier is %sreadable and %swritable, with room for %u segments",
              state->readable ? "" : "not ", state->writable ? "" : "not ", state->segments_max);
    struct core_event event = {.kind = EVENT_DISK_STATE,
                               .u.disk_state = {.segments_max = state->segments_max,
                                                .readable = state->readable,
                                                .writable = state->writable}};
    server_step(server, &event, NULL);
}

static void on_event(struct server *server, const struct disk_event *event)
{
    struct core_event step = {0};
    switch (event->kind) {
    case DISK_WRITTEN:
        store_ended(server, event->u.write->owner);
        break;
    case DISK_READ:
        read_ended(server, event->u.read->owner);
        break;
    case DISK_COMMITTED:
        step.kind = EVENT_COMMITTED;
        step.u.committed.epoch = event->u.epoch;
        server_step(server, &step, NULL);
        break;
    case DISK_SEGMENT_LOST:
        log_write(server->log, LOG_LEVEL_ERROR, "disk", "segment %u is lost: its blocks are misses",
                  event->u.segment);
        step.kind = EVENT_SEGMENT_LOST;
        step.u.segment_lost.segment = event->u.segment;
        server_step(server, &step, NULL);
        break;
    case DISK_STATE:
        on_state(server, &event->u.state);
        break;
    default:
        break;
    }
}

void disk_drain(struct server *server)
{
    if (server->disk == NULL) {
        return;
    }
    for (struct queue *item; (item = queue_pop_front(&server->failed_stores)) != NULL;) {
        store_ended(server, CONTAINER_OF(item, struct server_store, link));
    }
    for (struct queue *item; (item = queue_pop_front(&server->failed_loads)) != NULL;) {
        read_ended(server, CONTAINER_OF(item, struct server_load, link));
    }
    server_drain(server);
}

static void reap(struct server *server)
{
    struct disk_event event;
    uint32_t count = 0;
    while (count < DISK_REAP_MAX && disk_reap(server->disk, &event)) {
        on_event(server, &event);
        count++;
    }
    disk_drain(server);
    if (count == DISK_REAP_MAX) {
        (void)uv_async_send(&server->disk_wake);
    }
}

static void on_disk_wake(uv_async_t *async)
{
    struct server *server = CONTAINER_OF(async, struct server, disk_wake);
    if (server->disk != NULL) {
        reap(server);
    }
}

static void on_disk_tick(uv_timer_t *timer)
{
    struct server *server = CONTAINER_OF(timer, struct server, disk_timer);
    disk_tick(server->disk);
    reap(server);
}

/* From a thread of the tier's. */
static void wake(void *arg)
{
    struct server *server = arg;
    (void)uv_async_send(&server->disk_wake);
}

/* ---- start and end --------------------------------------------------------------------------- */

/* A quarter of what the file system has free, at most 64 GiB, whole segments. */
static uint64_t default_bytes(const struct server *server)
{
    struct statvfs info;
    char folder[sizeof server->disk_path];
    (void)memcpy(folder, server->disk_path, sizeof folder);
    while (statvfs(folder, &info) != 0) { /* the nearest folder that exists */
        char *slash = strrchr(folder, '/');
        if (slash == NULL || slash == folder) {
            return 0;
        }
        *slash = '\0';
    }
    uint64_t bytes = (uint64_t)info.f_bavail * info.f_frsize / DISK_SHARE;
    return bytes < disk_bytes_default_max ? bytes : disk_bytes_default_max;
}

int server_disk_limits(struct server *server, struct core_disk_limits *limits, struct error *error)
{
    const struct settings *settings = server->settings;
    *limits = (struct core_disk_limits){0};
    if (!settings->disk) {
        return ST_OK;
    }
    if (settings_disk_path(settings, server->disk_path, sizeof server->disk_path) != ST_OK) {
        return error_set(error, ST_INVALID, "disk-path is too long");
    }
    uint64_t segment = settings->disk_segment_bytes;
    server->disk_bytes = settings->disk_bytes != 0 ? settings->disk_bytes : default_bytes(server);
    uint64_t segments = server->disk_bytes / segment;
    if (segments < 4) {
        if (settings->disk_bytes != 0) {
            return error_set(error, ST_INVALID,
                             "disk-bytes is %llu: at least four segments of disk-segment-bytes, "
                             "%llu, are needed",
                             (unsigned long long)settings->disk_bytes, (unsigned long long)segment);
        }
        if (settings->disk_path[0] != '\0') {
            return error_set(error, ST_INVALID,
                             "disk-path: %s has too little room for four segments of "
                             "disk-segment-bytes: say how many bytes with disk-bytes",
                             server->disk_path);
        }
        log_write(server->log, LOG_LEVEL_WARN, "disk", "no disk tier: %s has too little room",
                  server->disk_path);
        return ST_OK;
    }
    uint64_t pool = server->pool_bytes;
    *limits = (struct core_disk_limits){
        .segments_max = (uint32_t)(segments > DISK_SEGMENTS_MAX ? DISK_SEGMENTS_MAX : segments),
        .stores_max = DISK_STORES_MAX,
        .loads_max = DISK_LOADS_MAX,
        .queue_max = settings->disk_queue_max,
        .store_bytes_max = settings->disk_inflight_bytes < pool / STORE_POOL_SHARE
                               ? settings->disk_inflight_bytes
                               : pool / STORE_POOL_SHARE,
        .load_bytes_max = pool / LOAD_POOL_SHARE,
        .admission = settings->disk_admission + 1};
    return ST_OK;
}

int server_disk_tables(struct server *server, const struct core_limits *limits)
{
    bool disk = limits->disk.segments_max > 0;
    uint32_t loads = (disk ? DISK_LOADS_MAX : 0) + limits->verifies_max + 1;
    if (!disk && limits->verifies_max == 0) {
        return ST_OK;
    }
    server->stores = heap_calloc(DISK_STORES_MAX, sizeof *server->stores);
    server->loads = heap_calloc(loads, sizeof *server->loads);
    server->load_count = loads;
    server->space_texts = heap_calloc(SPACES_MAX, sizeof *server->space_texts);
    for (uint32_t i = 0; server->loads != NULL && i < loads; i++) {
        queue_init(&server->loads[i].waits);
    }
    queue_init(&server->failed_stores);
    queue_init(&server->failed_loads);
    return server->stores == NULL || server->loads == NULL || server->space_texts == NULL
               ? ST_NO_MEMORY
               : ST_OK;
}

static int store_open(struct server *server, const struct core_limits *limits, struct error *error)
{
    const struct settings *settings = server->settings;
    struct disk_options options = {.directory = server->disk_path,
                                   .bytes_max = (uint64_t)limits->disk.segments_max *
                                                settings->disk_segment_bytes,
                                   .keep_free_percent = settings->disk_keep_free_percent,
                                   .segment_bytes = settings->disk_segment_bytes,
                                   .io = (enum disk_io_kind)settings->disk_io,
                                   .depth = settings->disk_depth,
                                   .jobs_max = DISK_STORES_MAX + DISK_LOADS_MAX,
                                   .write_bytes_per_s = settings->disk_write_bytes_per_s,
                                   .sync_ms = (uint32_t)settings->disk_sync_ms,
                                   .slow_ms = settings->disk_slow_ms,
                                   .log = server->log,
                                   .wake = wake,
                                   .wake_arg = server};
    struct restore *restore = restore_create(server);
    int status = restore == NULL
                     ? error_set(error, ST_NO_MEMORY, "out of memory for the disk tier")
                     : disk_open(&options, restore_entry, restore, &server->disk, error);
    restore_destroy(restore);
    return status;
}

static void say_started(struct server *server)
{
    struct disk_status status;
    disk_status(server->disk, &status);
    char size[SIZE_TEXT_BYTES];
    size_format_short(server->disk_bytes, size);
    log_write(server->log, LOG_LEVEL_INFO, "disk",
              "%s at %s by %s: %llu blocks found in %llu ms, %llu entries dropped", size,
              server->disk_path, status.io == DISK_IO_URING ? "io_uring" : "threads",
              (unsigned long long)status.counters.restored_parts,
              (unsigned long long)status.start_ms,
              (unsigned long long)status.counters.dropped_entries);
    on_state(server, &status.state);
}

int server_disk_init(struct server *server, const struct core_limits *limits, struct error *error)
{
    if (limits->disk.segments_max == 0) {
        return ST_OK;
    }
    server->disk_bytes_per_us = 500.0; /* until reads were measured: a slow disk's 500 MB/s */
    if (uv_async_init(&server->loop, &server->disk_wake, on_disk_wake) != 0 ||
        uv_timer_init(&server->loop, &server->disk_timer) != 0) {
        return error_set(error, ST_IO, "event loop: no handle for the disk tier");
    }
    server->disk_handles = true;
    /* nothing is written, and no segment freed, before all of them are known */
    struct core_event restoring = {
        .kind = EVENT_DISK_STATE,
        .u.disk_state = {.segments_max = limits->disk.segments_max, .readable = true}};
    server_step(server, &restoring, NULL);
    int status = store_open(server, limits, error);
    bool chosen = server->settings->disk_path[0] != '\0' || server->settings->disk_bytes != 0;
    if (status == ST_BUSY && !chosen) {
        return error_wrap(error, "choose another folder with disk-path, or none with disk: no");
    }
    if (status != ST_OK && (chosen || status == ST_VERSION || status == ST_CORRUPT)) {
        return status;
    }
    if (status != ST_OK) { /* nobody asked for it: go without, and say so */
        (void)snprintf(server->disk_why, sizeof server->disk_why, "%s", error->text);
        log_write(server->log, LOG_LEVEL_WARN, "disk",
                  "no disk tier: %s. Set disk-path to a folder of its own, or disk to no",
                  error->text);
        struct core_event event = {.kind = EVENT_DISK_STATE};
        server_step(server, &event, NULL);
        return ST_OK;
    }
    (void)uv_timer_start(&server->disk_timer, on_disk_tick, DISK_TICK_MS, DISK_TICK_MS);
    say_started(server);
    return ST_OK;
}

bool server_disk_busy(const struct server *server, bool patience)
{
    if (server->disk == NULL) {
        return false;
    }
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    if (patience) {
        return gauges.stores > 0 || gauges.loads > 0 || gauges.queued > 0;
    }
    uint64_t waited = (uint64_t)server->stop_ticks * STOP_TICK_MS;
    return (gauges.stores > 0 || gauges.loads > 0) &&
           waited < server->settings->stop_grace_ms + RELEASE_GRACE_MS;
}

void server_disk_close_handles(struct server *server)
{
    if (server->disk_handles) {
        uv_close((uv_handle_t *)&server->disk_wake, NULL);
        uv_close((uv_handle_t *)&server->disk_timer, NULL);
        server->disk_handles = false;
    }
}

void server_disk_finish(struct server *server)
{
    disk_close(server->disk);
    for (uint32_t i = 0; server->space_texts != NULL && i < SPACES_MAX; i++) {
        heap_free(server->space_texts[i].blob);
    }
    heap_free(server->space_texts);
    heap_free(server->loads);
    heap_free(server->stores);
}
