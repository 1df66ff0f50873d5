/*
 * The end of a planned stop: an index of what lies in the pool's file. Checksums of parts that are
 * on disk are known; the others are computed, on several threads, the most recently used first,
 * until the grace is over: what has none by then is not kept.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/size.h"
#include "daemon/server/keep_format.h"
#include "daemon/server/state.h"

enum { SEAL_THREADS_MAX = 16 };

/* A part without a known checksum, in the order in which core_each_part() tells them. */
struct unsealed {
    uint64_t offset;
    uint64_t bytes;
    uint64_t seal;
    bool sealed;
};

struct saving {
    struct server *server;
    uint64_t deadline_ms;
    struct unsealed *unsealed;
    uint64_t unsealed_count;
    uint64_t unsealed_max; /* first they are counted, then noted, then read again */
    atomic_uint_fast64_t sealed;
    struct snapshot_writer *writer;
    struct error *error;
    int status;
    uint64_t at; /* of the unsealed */
    bool *kinds; /* written already */
    uint32_t slabs;
    uint64_t parts;
    uint64_t bytes;
    uint64_t left_out;
    uint8_t record[KEEP_RECORD_BYTES_MAX];
};

/* ---- checksums ------------------------------------------------------------------------------- */

static bool count_unsealed(void *ctx, const struct core_kept_part *part)
{
    struct saving *saving = ctx;
    if (part->sealed) {
        return true;
    }
    if (saving->unsealed != NULL) {
        KVEIK_ASSERT(saving->unsealed_count < saving->unsealed_max);
        saving->unsealed[saving->unsealed_count] =
            (struct unsealed){.offset = part->offset, .bytes = part->bytes};
    }
    saving->unsealed_count++;
    return true;
}

/* The last first. */
static void *seal_some(void *arg)
{
    struct saving *saving = arg;
    while (clock_ms() < saving->deadline_ms) {
        uint64_t done = atomic_fetch_add(&saving->sealed, 1);
        if (done >= saving->unsealed_count) {
            break;
        }
        struct unsealed *part = &saving->unsealed[saving->unsealed_count - 1 - done];
        part->sealed =
            pool_seal(saving->server->pool, part->offset, part->bytes, &part->seal) == ST_OK;
    }
    return NULL;
}

static void seal_all(struct saving *saving)
{
    pthread_t threads[SEAL_THREADS_MAX];
    uint32_t wanted = server_copy_threads(saving->server->settings);
    uint32_t count = 0;
    while (count + 1 < wanted && count < SEAL_THREADS_MAX && count + 1 < saving->unsealed_count &&
           !fault_fires(FAULT_THREAD) &&
           pthread_create(&threads[count], NULL, seal_some, saving) == 0) {
        count++;
    }
    (void)seal_some(saving);
    for (uint32_t i = 0; i < count; i++) {
        (void)pthread_join(threads[i], NULL);
    }
}

static int find_unsealed(struct saving *saving)
{
    const struct core *core = saving->server->core;
    int status = core_each_part(core, count_unsealed, saving);
    if (status != ST_OK || saving->unsealed_count == 0) {
        return status;
    }
    saving->unsealed_max = saving->unsealed_count;
    saving->unsealed = heap_calloc(saving->unsealed_max, sizeof *saving->unsealed);
    if (saving->unsealed == NULL) {
        return ST_NO_MEMORY;
    }
    saving->unsealed_count = 0;
    return core_each_part(core, count_unsealed, saving);
}

/* ---- records --------------------------------------------------------------------------------- */

static bool write_record(struct saving *saving, const struct keep_record *record)
{
    uint32_t bytes = keep_encode(record, saving->record);
    saving->status = snapshot_writer_append(saving->writer, saving->record, bytes, saving->error);
    return saving->status == ST_OK;
}

static bool count_slab(void *ctx, const struct core_kept_slab *slab)
{
    (void)slab;
    ((struct saving *)ctx)->slabs++;
    return true;
}

static bool write_slab(void *ctx, const struct core_kept_slab *slab)
{
    return write_record(ctx, &(struct keep_record){.kind = KEEP_SLAB, .u.slab = *slab});
}

static bool write_kind(struct saving *saving, uint32_t number)
{
    const struct server *server = saving->server;
    const struct server_shape *shape = &server->shapes[number];
    const struct server_space_text *text = &server->space_texts[shape->core_space];
    struct kind_form form = {.group = shape->group, .grains = shape->grains, .form = shape->form};
    uint8_t blob[KIND_FORM_BYTES_MAX];
    struct keep_record record = {.kind = KEEP_KIND,
                                 .u.type = {.number = number,
                                            .space = text->blob,
                                            .space_bytes = text->bytes,
                                            .form = blob,
                                            .form_bytes = kind_form_encode(&form, blob)}};
    KVEIK_ASSERT(shape->used && text->blob != NULL);
    saving->kinds[number] = true;
    return write_record(saving, &record);
}

static bool write_part(void *ctx, const struct core_kept_part *part)
{
    struct saving *saving = ctx;
    struct keep_record record = {.kind = KEEP_PART, .u.part = *part};
    if (!part->sealed) {
        const struct unsealed *known = &saving->unsealed[saving->at++];
        KVEIK_ASSERT(known->offset == part->offset);
        if (!known->sealed) {
            saving->left_out++;
            return true;
        }
        record.u.part.seal = known->seal;
    }
    saving->parts++;
    saving->bytes += part->bytes;
    return (saving->kinds[part->shape] || write_kind(saving, part->shape)) &&
           write_record(saving, &record);
}

static int write_all(struct saving *saving)
{
    const struct server *server = saving->server;
    (void)core_each_slab(server->core, count_slab, saving);
    struct keep_record head = {
        .kind = KEEP_HEAD, .u.head = {.slabs = saving->slabs, .extent = pool_extent(server->pool)}};
    __builtin_memcpy(head.u.head.salt, server->salt, KEEP_SALT_BYTES);
    if (!write_record(saving, &head) || core_each_slab(server->core, write_slab, saving) != ST_OK) {
        return saving->status;
    }
    int status = core_each_part(server->core, write_part, saving);
    return saving->status != ST_OK ? saving->status : status;
}

static int save(struct saving *saving, struct error *error)
{
    const struct server *server = saving->server;
    const char *path = server->keep.index_path;
    struct snapshot_home home;
    saving->error = error;
    saving->kinds = heap_calloc(SHAPES_MAX, sizeof *saving->kinds);
    int status = saving->kinds == NULL ? ST_NO_MEMORY : find_unsealed(saving);
    if (status != ST_OK) {
        return error_set(error, status, "no memory for the index");
    }
    seal_all(saving);
    status = snapshot_home_of(server->pool, KEEP_CONTENT_FORMAT, &home, error);
    if (status == ST_OK) {
        status = snapshot_writer_create(path, &home, KVEIK_VERSION, &saving->writer, error);
    }
    if (status == ST_OK) {
        status = write_all(saving);
        status = status != ST_OK ? status : snapshot_writer_finish(saving->writer, error);
    }
    snapshot_writer_destroy(saving->writer);
    return status;
}

static const char *not_quiet(const struct server *server)
{
    struct core_gauges gauges;
    core_gauges(server->core, &gauges);
    if (!server->stopping || !server->stopped) {
        return "the stop was no planned one";
    }
    if (gauges.requests > 0 || copy_in_flight(server->copies) > 0) {
        return "copies were still under way";
    }
    return gauges.loads > 0 ? "reads from disk were still under way" : NULL;
}

void keep_save(struct server *server)
{
    if (!server->keep.file || server->keep.index_path[0] == '\0') {
        return;
    }
    struct error error = {0};
    uint64_t began_ms = clock_ms();
    struct saving *saving = heap_calloc(1, sizeof *saving);
    if (saving == NULL) {
        log_write(server->log, LOG_LEVEL_WARN, "keep", "memory is not kept: out of memory");
        return;
    }
    saving->server = server;
    saving->deadline_ms = began_ms + server->settings->stop_grace_ms;
    const char *why = not_quiet(server);
    int status = why != NULL ? error_set(&error, ST_BUSY, "%s", why) : save(saving, &error);
    if (status == ST_OK && pool_keep(server->pool) != ST_OK) {
        status = error_set(&error, ST_UNSUPPORTED, "the pool cannot be kept");
    }
    if (status == ST_OK) {
        char size[SIZE_TEXT_BYTES];
        size_format_short(saving->bytes, size);
        log_write(
            server->log, LOG_LEVEL_INFO, "keep",
            "%llu blocks, %s, stay in %s for the next start (%llu ms); %llu had no time to be "
            "sealed",
            (unsigned long long)saving->parts, size, server->keep.place,
            (unsigned long long)(clock_ms() - began_ms), (unsigned long long)saving->left_out);
    } else {
        log_write(server->log, LOG_LEVEL_WARN, "keep", "memory is not kept: %s", error.text);
        (void)snapshot_invalidate(server->keep.index_path, &error);
    }
    heap_free(saving->kinds);
    heap_free(saving->unsealed);
    heap_free(saving);
}
