/*
 * The start after a planned stop: an index that fits the pool's file says what lies there. Slabs
 * come before anything else is in the core, parts when the disk tier told its own. The index is
 * removed when the start has succeeded, before the first client can change a byte: after a crash
 * nobody believes it, and a start that fails leaves all for the next. Whatever is wrong, the reason
 * is logged and the start goes on with what is good.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/size.h"
#include "daemon/server/keep_format.h"
#include "daemon/server/notify.h"
#include "daemon/server/state.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif

#define STORE_NAME "kveik-pool"

/* A kind as it was read, and the core's shape for it once a part of it was taken. */
struct kept_kind {
    struct kind_space space;
    struct kind_form form;
    uint32_t shape;
};

/* While starting. */
struct keep_loading {
    struct snapshot *snapshot;
    uint8_t salt[KEEP_SALT_BYTES];
    uint64_t began_ms;
    struct kept_kind *kinds[KEEP_KIND_MAX];
};

static void why_not(struct server *server, const char *text)
{
    struct server_keep *keep = &server->keep;
    (void)snprintf(keep->why, sizeof keep->why, "%s", text);
}

/* ---- the pool -------------------------------------------------------------------------------- */

/* The folder of the pool's file: ours alone when we make it. */
static void make_folder(const char *file)
{
    char folder[sizeof((struct server_keep *)NULL)->index_path];
    (void)snprintf(folder, sizeof folder, "%s", file);
    char *slash = strrchr(folder, '/');
    if (slash != NULL && slash != folder) {
        *slash = '\0';
        (void)mkdir(folder, 0700); /* if it fails, opening the file says why */
    }
}

static int index_path(struct server *server, struct error *error)
{
    const struct settings *settings = server->settings;
    struct server_keep *keep = &server->keep;
    bool beside = settings->cpu_index[0] == '\0';
    int used = snprintf(keep->index_path, sizeof keep->index_path, "%s%s",
                        beside ? settings->cpu_file : settings->cpu_index, beside ? ".index" : "");
    return used > 0 && (size_t)used < sizeof keep->index_path
               ? ST_OK
               : error_set(error, ST_INVALID, "cpu-file is too long");
}

/* Attaches the pool if its index fits; ST_MISMATCH and such: it does not. */
static int attach(struct server *server, struct pool_options *options, struct error *error)
{
    struct server_keep *keep = &server->keep;
    struct snapshot_home home;
    options->attach = true;
    int status = pool_create(options, &server->pool, error);
    options->attach = false;
    if (status != ST_OK) {
        return status;
    }
    status = snapshot_home_of(server->pool, KEEP_CONTENT_FORMAT, &home, error);
    status = status != ST_OK
                 ? status
                 : snapshot_open(keep->index_path, &home, &keep->loading->snapshot, error);
    if (status != ST_OK) {
        pool_destroy(server->pool); /* and what it holds */
        server->pool = NULL;
    }
    return status;
}

/* A pool without an index to go by: whatever is in its file goes. */
static int create_empty(struct server *server, const struct pool_options *options,
                        struct error *error)
{
    int status = pool_create(options, &server->pool, error);
    if (status != ST_OK) {
        return status;
    }
    struct pool_status pool;
    pool_status(server->pool, &pool);
    if (strcmp(pool.file_system, "hugetlbfs") == 0 && server->settings->cpu_index[0] == '\0') {
        log_write(server->log, LOG_LEVEL_WARN, "keep",
                  "memory is not kept over restarts: hugetlbfs holds no index; name a cpu-index "
                  "elsewhere");
        server->keep.index_path[0] = '\0';
    }
    if (pool.written_back) {
        log_write(server->log, LOG_LEVEL_WARN, "keep",
                  "%s is on a disk: the kernel writes all KV out to it; use tmpfs, such as "
                  "/dev/shm, or hugetlbfs",
                  server->keep.place);
    }
    return ST_OK;
}

/* The memory that the service manager holds for us, or new memory for it to hold. */
static int from_store(struct server *server, struct pool_options *options, bool *fresh_out,
                      struct error *error)
{
    int fd = notify_descriptor(STORE_NAME);
    *fresh_out = fd < 0;
    if (fd < 0) {
        bool huge = options->pages == POOL_PAGES_HUGE;
        fd = memfd_create(STORE_NAME, MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
    }
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "cpu-fd-store: no memory file");
    }
    options->has_fd = true;
    options->fd = fd;
    server->keep.place = "the service manager's store";
    return ST_OK;
}

/* Takes the descriptor back, the pool has its own; the service manager gets one, too. */
static void to_store(struct server *server, const struct pool_options *options, bool fresh)
{
    struct error error = {0};
    if (fresh && server->pool != NULL && notify_store(options->fd, STORE_NAME, &error) != ST_OK) {
        log_write(server->log, LOG_LEVEL_WARN, "keep", "memory is not kept over restarts: %s",
                  error.text);
        server->keep.index_path[0] = '\0';
    }
    (void)close(options->fd);
}

/* With what lies there, if an index fits it; else empty. */
static int open_pool(struct server *server, struct pool_options *options, struct error *error)
{
    struct server_keep *keep = &server->keep;
    int status = ST_MISS;
    if (access(keep->index_path, F_OK) == 0) {
        struct error cause = {0};
        status = attach(server, options, &cause);
        if (status == ST_BUSY || status == ST_PERMISSION || status == ST_INVALID) {
            return error_set(error, status, "%s", cause.text); /* it would be so without, too */
        }
        if (status != ST_OK) {
            why_not(server, cause.text);
            log_write(server->log, LOG_LEVEL_WARN, "keep",
                      "starting with empty memory: what %s holds cannot be used: %s", keep->place,
                      cause.text);
        }
    } else {
        why_not(server,
                "no index: the first start, or the daemon before did not end in good order");
        log_write(server->log, LOG_LEVEL_INFO, "keep", "starting with empty memory in %s: %s",
                  keep->place, keep->why);
    }
    keep->fits = status == ST_OK;
    return status == ST_OK ? ST_OK : create_empty(server, options, error);
}

int keep_pool_create(struct server *server, struct pool_options *options, struct error *error)
{
    struct server_keep *keep = &server->keep;
    const struct settings *settings = server->settings;
    if (!settings_keep(settings)) {
        return pool_create(options, &server->pool, error);
    }
    keep->file = true;
    keep->place = settings->cpu_file;
    keep->loading = heap_calloc(1, sizeof *keep->loading);
    if (keep->loading == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    keep->loading->began_ms = clock_ms();
    int status = index_path(server, error);
    if (status != ST_OK) {
        return status;
    }
    if (!settings->cpu_fd_store) {
        options->file = settings->cpu_file;
        make_folder(options->file);
        return open_pool(server, options, error);
    }
    bool fresh = false;
    status = from_store(server, options, &fresh, error);
    if (status == ST_OK) {
        status = open_pool(server, options, error);
        to_store(server, options, fresh);
    }
    return status;
}

int keep_begin(struct server *server, struct error *error)
{
    struct server_keep *keep = &server->keep;
    if (!keep->file) {
        return ST_OK;
    }
    int status = keep->index_path[0] == '\0' ? ST_OK : snapshot_invalidate(keep->index_path, error);
    keep->begun = status == ST_OK;
    return status;
}

void keep_end(struct server *server)
{
    keep_loading_free(server);
    if (server->keep.fits && !server->keep.begun && !server->keep.gave_up) {
        (void)pool_keep(server->pool); /* the start failed: its index is there still */
    }
}

/* ---- slabs ----------------------------------------------------------------------------------- */

/* The next record. ST_OK, ST_MISS: that was all; else the index is not to be believed. */
static int next_record(struct keep_loading *loading, struct keep_record *record_out,
                       struct error *error)
{
    const void *bytes = NULL;
    uint32_t count = 0;
    int status = snapshot_next(loading->snapshot, &bytes, &count, error);
    if (status == ST_OK && !keep_decode(bytes, count, record_out)) {
        status = error_set(error, ST_CORRUPT, "a record of the index is damaged");
    }
    return status;
}

static void restore_slab(struct server *server, const struct core_kept_slab *slab)
{
    struct core_event event = {
        .kind = EVENT_RESTORE_SLAB,
        .u.restore_slab = {.slot_bytes = slab->slot_bytes, .offset = slab->offset}};
    struct core_action answer = {0};
    server_step(server, &event, &answer);
    if (answer.status != ST_OK) {
        server->keep.slabs_dropped++;
        return;
    }
    struct error error = {0};
    int status = answer.bytes != slab->bytes
                     ? error_set(&error, ST_MISMATCH, "a slab of another size")
                     : pool_adopt(server->pool, slab->offset, slab->bytes, &error);
    if (status == ST_OK) {
        server->keep.slabs++;
        return;
    }
    server->keep.slabs_dropped++;
    log_write(server->log, LOG_LEVEL_WARN, "keep", "memory at %llu is not there any more: %s",
              (unsigned long long)slab->offset, error.text);
    event = (struct core_event){.kind = EVENT_SLAB_FAILED, .u.slab_failed.offset = slab->offset};
    server_step(server, &event, NULL);
}

/* Nothing of the index is believed from here on. */
static void give_up(struct server *server, const char *text)
{
    struct server_keep *keep = &server->keep;
    log_write(server->log, LOG_LEVEL_WARN, "keep", "starting with empty memory: %s", text);
    why_not(server, text);
    snapshot_close(keep->loading->snapshot);
    keep->loading->snapshot = NULL;
    keep->parts = 0;
    keep->bytes = 0;
    keep->gave_up = true;
}

void keep_load_slabs(struct server *server)
{
    struct keep_loading *loading = server->keep.loading;
    if (loading == NULL || loading->snapshot == NULL) {
        return;
    }
    struct error error = {0};
    struct keep_record record;
    int status = next_record(loading, &record, &error);
    if (status != ST_OK || record.kind != KEEP_HEAD) {
        give_up(server, status != ST_OK ? error.text : "the index does not begin with its head");
        return;
    }
    (void)memcpy(loading->salt, record.u.head.salt, KEEP_SALT_BYTES);
    pool_adopt_begin(server->pool, record.u.head.extent);
    for (uint32_t left = record.u.head.slabs; left > 0; left--) {
        status = next_record(loading, &record, &error);
        if (status != ST_OK || record.kind != KEEP_SLAB) {
            give_up(server,
                    status == ST_OK || status == ST_MISS ? "the index lacks slabs" : error.text);
            return;
        }
        restore_slab(server, &record.u.slab);
    }
    if (server->disk == NULL) {
        (void)memcpy(server->salt, loading->salt, sizeof server->salt);
    }
}

/* ---- parts ----------------------------------------------------------------------------------- */

static bool load_kind(struct keep_loading *loading, const struct keep_kind *record)
{
    struct kept_kind *kind = heap_alloc(sizeof *kind);
    if (kind == NULL || loading->kinds[record->number] != NULL ||
        !kind_space_decode(record->space, record->space_bytes, &kind->space) ||
        !kind_form_decode(record->form, record->form_bytes, &kind->form)) {
        heap_free(kind);
        return false;
    }
    kind->shape = NO_HANDLE;
    loading->kinds[record->number] = kind;
    return true;
}

static void load_part(struct server *server, const struct core_kept_part *part)
{
    struct kept_kind *kind = server->keep.loading->kinds[part->shape];
    if (kind == NULL) {
        server->keep.dropped++;
        return;
    }
    struct core_event event = {.kind = EVENT_RESTORE,
                               .u.restore = {.shape = kind->shape,
                                             .keys = part->keys,
                                             .key_count = part->key_count,
                                             .grains = part->grains,
                                             .tail_tokens = part->tail_tokens,
                                             .parent = part->parent,
                                             .origin = part->origin,
                                             .origin_bytes = part->origin_bytes,
                                             .in_memory = true,
                                             .offset = part->offset,
                                             .seal = part->seal}};
    bool good = false;
    if (kind->shape == NO_HANDLE) {
        good = restore_as(server, &kind->space, &kind->form, &event, &kind->shape);
    } else {
        struct core_action answer = {0};
        server_step(server, &event, &answer);
        good = answer.status == ST_OK;
    }
    if (good) {
        server->keep.parts++;
        server->keep.bytes += kind->form.form.part_bytes;
    } else {
        server->keep.dropped++;
    }
}

static void load_parts(struct server *server)
{
    struct keep_loading *loading = server->keep.loading;
    struct error error = {0};
    struct keep_record record;
    int status = ST_OK;
    while ((status = next_record(loading, &record, &error)) == ST_OK) {
        bool known = record.kind == KEEP_KIND || record.kind == KEEP_PART;
        if (!known || (record.kind == KEEP_KIND && !load_kind(loading, &record.u.type))) {
            status = error_set(&error, ST_CORRUPT, "a record of the index is damaged");
            break;
        }
        if (record.kind == KEEP_PART) {
            load_part(server, &record.u.part);
        }
    }
    if (status != ST_MISS) {
        give_up(server, error.text);
    }
}

static void say(const struct server *server)
{
    const struct server_keep *keep = &server->keep;
    char size[SIZE_TEXT_BYTES];
    size_format_short(keep->bytes, size);
    log_write(server->log, LOG_LEVEL_INFO, "keep",
              "%llu blocks, %s, found in %s in %llu ms; %llu dropped, %llu slabs gone",
              (unsigned long long)keep->parts, size, keep->place, (unsigned long long)keep->load_ms,
              (unsigned long long)keep->dropped, (unsigned long long)keep->slabs_dropped);
}

int keep_load_parts(struct server *server, struct error *error)
{
    struct server_keep *keep = &server->keep;
    struct keep_loading *loading = keep->loading;
    if (loading == NULL) {
        return ST_OK;
    }
    bool attached = loading->snapshot != NULL || keep->gave_up;
    if (loading->snapshot != NULL && server->disk != NULL &&
        memcmp(disk_secret(server->disk), loading->salt, KEEP_SALT_BYTES) != 0) {
        give_up(server, "the disk tier is another one: names of blocks mean something else there");
    }
    if (loading->snapshot != NULL) {
        load_parts(server);
    }
    int status = ST_OK;
    if (attached) {
        struct core_event event = {.kind = EVENT_RESTORE_END,
                                   .u.restore_end.forget = keep->gave_up};
        server_step(server, &event, NULL);
        status = pool_adopt_end(server->pool, error);
    }
    keep->load_ms = clock_ms() - loading->began_ms;
    if (loading->snapshot != NULL) {
        keep->attached = true;
        say(server);
    }
    keep_loading_free(server);
    return status;
}

void keep_loading_free(struct server *server)
{
    struct keep_loading *loading = server->keep.loading;
    if (loading == NULL) {
        return;
    }
    snapshot_close(loading->snapshot);
    for (uint32_t i = 0; i < KEEP_KIND_MAX; i++) {
        heap_free(loading->kinds[i]);
    }
    heap_free(loading);
    server->keep.loading = NULL;
}
