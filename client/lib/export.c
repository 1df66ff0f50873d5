/*
 * Exporting: which way the daemon gets at the memory, and the proof that it does.
 *
 *   SHARED  the memory is a mapping of a memfd whose descriptor is known or found
 *   ADOPT   private pages become such a mapping: see adopt.c
 *   CROSS   the daemon copies by process_vm_readv() and process_vm_writev()
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "client/lib/maps.h"
#include "kveik/kveik.h"

/* A descriptor of the region's own, and where the region begins in the file. */
struct way {
    uint32_t mode;
    int memfd; /* owned; -1 with CROSS */
    uint64_t file_offset;
};

struct wish {
    uint8_t *address;
    size_t bytes;
    const struct kveik_memory_options *options;
};

static int own(int memfd, struct way *way, struct error *error)
{
    way->memfd = fcntl(memfd, F_DUPFD_CLOEXEC, 0);
    return way->memfd >= 0 ? ST_OK : error_errno(error, ST_IO, errno, "duplicate a descriptor");
}

/* The caller's memfd: it must not shrink under the daemon. Sealing it is in the caller's interest,
 * who asked for sharing. */
static int seal_given(int memfd, struct error *error)
{
    int seals = fcntl(memfd, F_GET_SEALS);
    if (seals < 0) {
        return error_errno(error, ST_UNSUPPORTED, errno, "memfd %d is no memfd", memfd);
    }
    if ((seals & F_SEAL_SHRINK) == 0 &&
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
        return error_errno(error, ST_PERMISSION, errno,
                           "memfd %d must be sealed against shrinking (create it with "
                           "MFD_ALLOW_SEALING)",
                           memfd);
    }
    return ST_OK;
}

/* In memory that this client allocated. */
static bool find_allocation(struct kveik_client *client, const struct wish *wish, int *memfd_out,
                            uint64_t *offset_out)
{
    queue_foreach (item, &client->allocations) {
        const struct allocation *allocation = CONTAINER_OF(item, struct allocation, link);
        if (wish->address >= allocation->address &&
            wish->address + wish->bytes <= allocation->address + allocation->bytes) {
            *memfd_out = allocation->memfd;
            *offset_out = (uint64_t)(wish->address - allocation->address);
            return true;
        }
    }
    return false;
}

/* One shared mapping whose file is open somewhere in this process: memory of another client here,
 * or a memfd that the caller did not name. */
static int find_mapped(const struct wish *wish, struct way *way, struct error *error)
{
    uintptr_t begin = (uintptr_t)wish->address;
    struct map_segment *segments = NULL;
    size_t count = 0;
    int status = maps_read(begin, begin + wish->bytes, &segments, &count, error);
    if (status != ST_OK) {
        return status;
    }
    status = error_set(error, ST_UNSUPPORTED, "the memory is no mapping of an open memfd");
    bool whole = count > 0 && maps_cover(segments, count, begin, begin + wish->bytes);
    for (size_t i = 0; whole && i < count; i++) {
        whole = segments[i].shared && segments[i].inode == segments[0].inode &&
                segments[i].device == segments[0].device &&
                segments[i].file_offset - segments[0].file_offset ==
                    segments[i].begin - segments[0].begin;
    }
    if (whole) {
        way->memfd = maps_find_descriptor(segments[0].device, segments[0].inode);
        way->file_offset = segments[0].file_offset + (begin - segments[0].begin);
        int seals = way->memfd >= 0 ? fcntl(way->memfd, F_GET_SEALS) : -1;
        if (seals >= 0 && (seals & F_SEAL_SHRINK) != 0) {
            status = ST_OK;
        } else if (way->memfd >= 0) {
            (void)close(way->memfd); /* not ours to seal */
        }
    }
    heap_free(segments);
    return status;
}

static int way_shared(struct kveik_client *client, const struct wish *wish, struct way *way,
                      struct error *error)
{
    int memfd = -1;
    way->mode = KVEIK_MEMORY_SHARED;
    if (wish->options->memfd > 0) {
        way->file_offset = wish->options->memfd_offset;
        int status = seal_given(wish->options->memfd, error);
        if (status == ST_OK) {
            struct error ignored = {0};
            (void)memfd_populate(wish->address, wish->bytes, &ignored);
            status = own(wish->options->memfd, way, error);
        }
        return status;
    }
    if (find_allocation(client, wish, &memfd, &way->file_offset)) {
        return own(memfd, way, error);
    }
    return find_mapped(wish, way, error);
}

static int way_adopt(struct kveik_client *client, const struct wish *wish, struct way *way,
                     struct error *error)
{
    const struct adoption wanted = {
        .address = wish->address, .bytes = wish->bytes, .small_pages = wish->options->small_pages};
    int memfd = -1;
    way->mode = KVEIK_MEMORY_ADOPT;
    int status = adopt(client, &wanted, &memfd, &way->file_offset, error);
    return status == ST_OK ? own(memfd, way, error) : status;
}

static int find_way(struct kveik_client *client, const struct wish *wish, uint32_t mode,
                    struct way *way, struct error *error)
{
    *way = (struct way){.mode = mode, .memfd = -1};
    if (mode == KVEIK_MEMORY_CROSS) {
        return ST_OK;
    }
    (void)pthread_mutex_lock(&client->memory_mutex);
    int status = mode == KVEIK_MEMORY_SHARED ? way_shared(client, wish, way, error)
                                             : way_adopt(client, wish, way, error);
    (void)pthread_mutex_unlock(&client->memory_mutex);
    return status;
}

/* ---- registering ----------------------------------------------------------------------------- */

/* Gives the daemon the region and has it proved. Takes the way's descriptor. */
static int offer(struct kveik_client *client, struct client_region *region, struct error *error)
{
    struct op *op = register_send_region(client, region, error);
    if (op == NULL) {
        return error->status;
    }
    int status = op_await(client, op, error);
    region->object.number = op->number;
    region->object.epoch = op->epoch;
    region->object.status = status;
    op_forget(client, op);
    if (status != ST_OK) {
        return status;
    }
    status = probe_region(client, region, error);
    if (status != ST_OK && region->object.epoch == client->connection.epoch) {
        register_undo(client, MSG_EXPORT_MEMORY, region->object.number);
    }
    return status;
}

static int export_by(struct kveik_client *client, const struct wish *wish, const struct way *way,
                     uint32_t *region_out, struct error *error)
{
    struct client_region *region = heap_calloc(1, sizeof *region);
    if (region == NULL) {
        if (way->memfd >= 0) {
            (void)close(way->memfd);
        }
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    region->address = wish->address;
    region->bytes = wish->bytes;
    region->mode = way->mode;
    region->memfd = way->memfd;
    region->file_offset = way->file_offset;
    int status = connection_ready(client, error);
    if (status == ST_OK) {
        status = offer(client, region, error);
    }
    if (status == ST_OK) {
        status = register_keep(client, &client->regions, &region->object, error);
        if (status != ST_OK) {
            register_undo(client, MSG_EXPORT_MEMORY, region->object.number);
        }
    }
    if (status != ST_OK) {
        client_region_destroy(region);
        return status;
    }
    *region_out = region->object.handle;
    return ST_OK;
}

/* Whether another way could do better. */
static bool is_final(int status)
{
    return status == ST_OK || status == ST_UNAVAILABLE || status == ST_LOST ||
           status == ST_CANCELLED || status == ST_STUCK || status == ST_LIMIT;
}

static int export_try(struct kveik_client *client, const struct wish *wish, uint32_t mode,
                      uint32_t *region_out, struct error *error)
{
    struct way way;
    int status = find_way(client, wish, mode, &way, error);
    if (status != ST_OK) {
        return status;
    }
    status = client_enter(client);
    if (status != ST_OK) {
        if (way.memfd >= 0) {
            (void)close(way.memfd);
        }
        return status;
    }
    status = export_by(client, wish, &way, region_out, error);
    client_leave(client);
    return status;
}

/* Touching it must not fault: the probe writes there. */
static int check_mapped(const struct wish *wish, struct error *error)
{
    uintptr_t begin = (uintptr_t)wish->address;
    struct map_segment *segments = NULL;
    size_t count = 0;
    int status = maps_read(begin, begin + wish->bytes, &segments, &count, error);
    if (status == ST_OK && !maps_cover(segments, count, begin, begin + wish->bytes)) {
        status = error_set(error, ST_MEMORY, "[%p, +%zu) is not mapped, readable and writable",
                           (void *)wish->address, wish->bytes);
    }
    heap_free(segments);
    return status;
}

static int export_memory(struct kveik_client *client, const struct wish *wish, uint32_t *region_out,
                         uint32_t *mode_out, struct error *error)
{
    static const uint32_t modes[] = {KVEIK_MEMORY_SHARED, KVEIK_MEMORY_ADOPT, KVEIK_MEMORY_CROSS};
    uint32_t asked = wish->options->mode;
    if (asked > KVEIK_MEMORY_CROSS) {
        return error_set(error, ST_INVALID, "mode %u is unknown", asked);
    }
    uintptr_t begin = (uintptr_t)wish->address;
    if (begin == 0 || wish->bytes == 0 || wish->bytes > (uintptr_t)INTPTR_MAX - begin) {
        return error_set(error, ST_INVALID, "no memory to export");
    }
    int status = check_mapped(wish, error);
    if (status != ST_OK) {
        return status;
    }
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        if (asked != KVEIK_MEMORY_AUTO && asked != modes[i]) {
            continue;
        }
        status = export_try(client, wish, modes[i], region_out, error);
        if (status == ST_OK && mode_out != NULL) {
            *mode_out = modes[i];
        }
        if (is_final(status)) {
            return status;
        }
    }
    return status;
}

/* NOLINTNEXTLINE(readability-function-size): the public signature */
int kveik_memory_export(kveik_client *client, void *address, size_t bytes,
                        const struct kveik_memory_options *options, uint32_t *region_out,
                        uint32_t *mode_out, struct kveik_error *error_out)
{
    struct kveik_memory_options ours = KVEIK_MEMORY_OPTIONS_INIT;
    struct error error = {0};
    int status = region_out == NULL ? ST_INVALID : client_enter(client);
    if (status != ST_OK) {
        return report(status, NULL, error_out);
    }
    if (options != NULL) {
        status = take_struct(&ours, sizeof ours, options, "KVEIK_MEMORY_OPTIONS_INIT", &error);
    }
    if (status == ST_OK) {
        status = connection_ready(client, &error); /* before pages are adopted for nothing */
    }
    client_leave(client);
    if (status == ST_OK) {
        const struct wish wish = {.address = address, .bytes = bytes, .options = &ours};
        status = export_memory(client, &wish, region_out, mode_out, &error);
    }
    return report(status, &error, error_out);
}
