/*
 * Memory that the daemon may reach: allocated as a sealed memfd, adopted in place, or, where
 * neither is possible, copied across processes. Every export is proved by a probe: bytes written
 * at one end of the region must come out where the daemon is asked to put them.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/heap.h"
#include "client/lib/client.h"
#include "client/lib/memfd.h"

enum { PROBE_BYTES = 64 };

/* ---- allocation ------------------------------------------------------------------------------ */

struct allocation {
    char *address; /* what the user has */
    uint64_t bytes;
    char *mapping;
    uint64_t mapping_bytes;
    int memfd;
};

int kveik_memory_allocate(kveik_client *client, size_t bytes, void **address_out,
                          struct kveik_error *error)
{
    if (bytes == 0 || bytes > SIZE_MAX / 4 || address_out == NULL) {
        return error_say(error, ST_INVALID, "memory: give a size and address_out");
    }
    struct allocation *allocation = heap_calloc(1, sizeof *allocation);
    if (allocation == NULL) {
        return error_say(error, ST_NO_MEMORY, "out of memory");
    }
    struct error cause = {0};
    struct memfd_mapping made;
    int status = memfd_allocate(bytes, &made, &cause);
    uint32_t handle = 0;
    if (status == ST_OK) {
        *allocation = (struct allocation){.address = made.address,
                                          .bytes = bytes,
                                          .mapping = made.address,
                                          .mapping_bytes = made.bytes,
                                          .memfd = made.fd};
        status = client_lock(client);
        if (status == ST_OK) {
            status = table_add(&client->allocations, allocation, &handle);
            client_unlock(client);
        }
        if (status != ST_OK) {
            (void)error_set(&cause, status, "%s", status_text(status));
            (void)munmap(made.address, made.bytes);
            (void)close(made.fd);
        }
    }
    if (status != ST_OK) {
        heap_free(allocation);
        return error_out(error, &cause);
    }
    *address_out = allocation->address;
    return ST_OK;
}

static struct allocation *allocation_of(struct kveik_client *client, const char *address,
                                        uint32_t *handle_out)
{
    for (uint32_t i = 0; i < client->allocations.count; i++) {
        struct allocation *allocation = client->allocations.items[i];
        if (allocation != NULL && address >= allocation->address &&
            address < allocation->address + allocation->bytes) {
            *handle_out = i;
            return allocation;
        }
    }
    return NULL;
}

static void allocation_free(struct allocation *allocation)
{
    (void)munmap(allocation->mapping, allocation->mapping_bytes);
    (void)close(allocation->memfd);
    heap_free(allocation);
}

void kveik_memory_free(kveik_client *client, void *address)
{
    if (address == NULL || client_lock(client) != ST_OK) {
        return;
    }
    uint32_t handle = 0;
    struct allocation *allocation = allocation_of(client, address, &handle);
    for (uint32_t i = 0; allocation != NULL && i < client->regions.count; i++) {
        const struct client_region *region = client->regions.items[i];
        if (region != NULL && region->address >= allocation->address &&
            region->address < allocation->address + allocation->bytes) {
            (void)region_drop(client, i, NULL);
        }
    }
    if (allocation != NULL) {
        table_clear(&client->allocations, handle);
        allocation_free(allocation);
    }
    client_unlock(client);
}

/* ---- registering ----------------------------------------------------------------------------- */

static void region_message(const struct client_region *region, struct msg *msg)
{
    *msg = (struct msg){.kind = MSG_EXPORT_MEMORY,
                        .u.export_memory = {.kind = MEMORY_MEMFD,
                                            .bytes = region->bytes,
                                            .file_offset = region->file_offset}};
    if (region->mode == KVEIK_MEMORY_CROSS) {
        msg->u.export_memory = (struct msg_export_memory){
            .kind = MEMORY_PROCESS, .bytes = region->bytes, .address = (uintptr_t)region->address};
    }
}

/* Lets the daemon copy from and to this process where Yama asks for it. */
static void allow_daemon(const struct kveik_client *client)
{
#ifdef PR_SET_PTRACER
    /* EINVAL where there is no Yama: then nothing is needed */
    (void)prctl(PR_SET_PTRACER, (unsigned long)client->daemon_pid, 0, 0, 0);
#else
    (void)client;
#endif
}

static void on_region_again(struct kveik_client *client, struct op *op, const struct msg *msg)
{
    struct client_region *region = op->object;
    region->status = msg->kind == MSG_HANDLE_REPLY ? msg->u.handle_reply.status : ST_PROTOCOL;
    if (region->status == ST_OK) {
        region->remote = msg->u.handle_reply.handle;
    }
    client->registering--;
    op_forget(client, op);
}

int region_send(struct kveik_client *client, struct client_region *region, struct error *error)
{
    struct op *op = op_create(client, 0, NULL, CALL_TIMEOUT_MS);
    if (op == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    op->on_reply = on_region_again;
    op->object = region;
    client->registering++;
    struct msg msg;
    region_message(region, &msg);
    msg.request_id = op->id;
    if (region->mode == KVEIK_MEMORY_CROSS) {
        allow_daemon(client);
        return client_send(client, &msg, NULL, 0, error);
    }
    return client_send(client, &msg, &region->memfd, 1, error);
}

/* Bytes put at the start of the region must appear at its end, and the other way round nothing
 * else may change. Contents are kept. */
static int region_probe(struct kveik_client *client, const struct client_region *region,
                        struct error *error)
{
    uint32_t bytes = region->bytes < 2 * (uint64_t)PROBE_BYTES ? (uint32_t)(region->bytes / 2)
                                                               : (uint32_t)PROBE_BYTES;
    char *from = region->address;
    char *to = region->address + region->bytes - bytes;
    char kept[2 * PROBE_BYTES];
    char pattern[PROBE_BYTES];
    if (bytes == 0 || getrandom(pattern, sizeof pattern, 0) != (ssize_t)sizeof pattern) {
        return ST_OK; /* too small to probe */
    }
    (void)memcpy(kept, from, bytes);
    (void)memcpy(kept + PROBE_BYTES, to, bytes);
    (void)memcpy(from, pattern, bytes);
    struct msg msg = {
        .kind = MSG_PROBE,
        .u.probe = {.region = region->remote, .offset_to = region->bytes - bytes, .bytes = bytes}};
    struct call_answer answer;
    int status = client_call(client, &msg, NULL, 0, &answer);
    bool same = memcmp(to, pattern, bytes) == 0;
    (void)memcpy(from, kept, bytes);
    (void)memcpy(to, kept + PROBE_BYTES, bytes);
    if (status != ST_OK) {
        return error_set(error, status, "the daemon cannot reach the memory: %s", answer.text);
    }
    return same ? ST_OK
                : error_set(error, ST_MISMATCH, "the daemon sees other memory than this process");
}

static int region_register(struct kveik_client *client, struct client_region *region,
                           struct error *error)
{
    struct msg msg;
    struct call_answer answer;
    bool cross = region->mode == KVEIK_MEMORY_CROSS;
    region_message(region, &msg);
    if (cross) {
        struct error none = {0};
        (void)client_ready(client, &none); /* so that the daemon's pid is known */
        allow_daemon(client);
    }
    int status = client_call(client, &msg, cross ? NULL : &region->memfd, cross ? 0 : 1, &answer);
    if (status == ST_UNAVAILABLE && client->wait_for_daemon) {
        region->status = ST_UNAVAILABLE;
        return ST_OK; /* registered when the daemon comes */
    }
    if (status != ST_OK) {
        return error_set(error, status, "memory: %s", answer.text);
    }
    region->remote = answer.handle;
    status = region_probe(client, region, error);
    if (status != ST_OK) {
        struct msg drop = {.kind = MSG_DROP_MEMORY, .u.drop_memory.handle = region->remote};
        (void)client_call(client, &drop, NULL, 0, &answer);
    }
    return status;
}

/* ---- the ways -------------------------------------------------------------------------------- */

/* A descriptor of the file that is mapped at the region, when we know one. */
static int way_shared(struct kveik_client *client, struct client_region *region,
                      const struct kveik_memory_options *options, struct error *error)
{
    uint32_t handle = 0;
    const struct allocation *allocation = allocation_of(client, region->address, &handle);
    int fd = -1;
    if (options != NULL && options->memfd > 0) {
        fd = fcntl(options->memfd, F_DUPFD_CLOEXEC, 0);
        region->file_offset = options->memfd_offset;
    } else if (allocation != NULL &&
               region->bytes <=
                   (uint64_t)(allocation->address + allocation->bytes - region->address)) {
        fd = fcntl(allocation->memfd, F_DUPFD_CLOEXEC, 0);
        region->file_offset = (uint64_t)(region->address - allocation->address);
    } else {
        return error_set(error, ST_UNSUPPORTED,
                         "not shared memory: use kveik_memory_allocate(), or give its memfd");
    }
    if (fd < 0) {
        return error_errno(error, ST_IO, errno, "duplicate the memfd");
    }
    region->memfd = fd;
    return ST_OK;
}

static void region_close(struct client_region *region)
{
    if (region->memfd >= 0) {
        (void)close(region->memfd);
        region->memfd = -1;
    }
}

/* Tensors of one allocation may share a page at their borders. Then all that hangs together is
 * adopted anew, into one file, and the regions that were there are exported again. */
struct joined {
    char *begin;
    char *end;
    struct adopted adopted;
};

static bool joins(const struct client_region *region, const struct joined *joined, uint64_t page)
{
    uintptr_t begin = (uintptr_t)region->address / page * page;
    uintptr_t end = ((uintptr_t)region->address + region->bytes + page - 1) / page * page;
    return region->mode == KVEIK_MEMORY_ADOPT && begin < (uintptr_t)joined->end &&
           end > (uintptr_t)joined->begin;
}

static bool has_layout(const struct kveik_client *client, uint32_t region)
{
    for (uint32_t i = 0; i < client->layouts.count; i++) {
        const struct client_layout *layout = client->layouts.items[i];
        uint32_t planes =
            layout != NULL ? layout->layout.layer_count * layout->layout.kind_count : 0;
        for (uint32_t p = 0; p < planes; p++) {
            if (layout->layout.planes[p].region == region) {
                return true;
            }
        }
    }
    return false;
}

/* Widens the range until no region of ours stands half inside. */
static int join_regions(const struct kveik_client *client, struct joined *joined,
                        struct error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    joined->begin -= (uintptr_t)joined->begin % page;
    joined->end += (page - (uintptr_t)joined->end % page) % page;
    for (bool wider = true; wider;) {
        wider = false;
        for (uint32_t i = 0; i < client->regions.count; i++) {
            const struct client_region *region = client->regions.items[i];
            if (region == NULL || !joins(region, joined, page)) {
                continue;
            }
            if (has_layout(client, i)) {
                return error_set(error, ST_UNSUPPORTED,
                                 "the memory shares a page with a region that a layout uses: "
                                 "export all memory before registering layouts");
            }
            char *begin = region->address - (uintptr_t)region->address % page;
            char *end = region->address + region->bytes;
            end += (page - (uintptr_t)end % page) % page;
            wider = wider || begin < joined->begin || end > joined->end;
            joined->begin = begin < joined->begin ? begin : joined->begin;
            joined->end = end > joined->end ? end : joined->end;
        }
    }
    return ST_OK;
}

/* Bytes of the range that regions of ours adopted, page by page. */
static uint64_t own_bytes(const struct kveik_client *client, const struct joined *joined)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = 0;
    for (char *at = joined->begin; at < joined->end; at += page) {
        struct joined one = {.begin = at, .end = at + page};
        for (uint32_t i = 0; i < client->regions.count; i++) {
            const struct client_region *region = client->regions.items[i];
            if (region != NULL && joins(region, &one, page)) {
                bytes += page;
                break;
            }
        }
    }
    return bytes;
}

/* A region that moved to the new file: dropped and exported again over there. */
static int region_move(struct kveik_client *client, struct client_region *region,
                       const struct joined *joined, struct error *error)
{
    struct call_answer answer;
    struct msg drop = {.kind = MSG_DROP_MEMORY, .u.drop_memory.handle = region->remote};
    region_close(region);
    region->memfd = fcntl(joined->adopted.fd, F_DUPFD_CLOEXEC, 0);
    region->file_offset = joined->adopted.file_offset + (uint64_t)(region->address - joined->begin);
    if (region->memfd < 0) {
        return error_errno(error, ST_IO, errno, "duplicate the memfd");
    }
    (void)client_call(client, &drop, NULL, 0, &answer);
    return region_register(client, region, error);
}

static int adopt_joined(struct kveik_client *client, struct client_region *region, bool huge,
                        struct error *error)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct joined joined = {.begin = region->address, .end = region->address + region->bytes};
    int status = join_regions(client, &joined, error);
    if (status == ST_OK) {
        struct adopt_options again = {
            .huge_pages = huge, .again = true, .own_bytes = own_bytes(client, &joined)};
        status = adopt_range(joined.begin, (uint64_t)(joined.end - joined.begin), again,
                             &joined.adopted, error);
    }
    if (status != ST_OK) {
        return status;
    }
    for (uint32_t i = 0; status == ST_OK && i < client->regions.count; i++) {
        struct client_region *other = client->regions.items[i];
        if (other != NULL && joins(other, &joined, page)) {
            status = region_move(client, other, &joined, error);
        }
    }
    region->memfd = joined.adopted.fd;
    region->file_offset = joined.adopted.file_offset + (uint64_t)(region->address - joined.begin);
    return status;
}

static int way_adopt(struct kveik_client *client, struct client_region *region,
                     const struct kveik_memory_options *options, struct error *error)
{
    struct adopt_options first = {.huge_pages = options == NULL || !options->small_pages};
    struct adopted adopted;
    int status = adopt_range(region->address, region->bytes, first, &adopted, error);
    if (status == ST_BUSY) {
        return adopt_joined(client, region, first.huge_pages, error);
    }
    if (status == ST_OK) {
        region->memfd = adopted.fd;
        region->file_offset = adopted.file_offset;
    }
    return status;
}

static int region_try(struct kveik_client *client, struct client_region *region, uint32_t mode,
                      const struct kveik_memory_options *options, struct error *error)
{
    int status = ST_OK;
    region->mode = mode;
    region->memfd = -1;
    region->file_offset = 0;
    if (mode == KVEIK_MEMORY_SHARED) {
        status = way_shared(client, region, options, error);
    } else if (mode == KVEIK_MEMORY_ADOPT) {
        status = way_adopt(client, region, options, error);
    }
    status = status != ST_OK ? status : region_register(client, region, error);
    if (status != ST_OK) {
        region_close(region);
    }
    return status;
}

/* AUTO takes the first way that works; the error is the last one's, after what was tried. */
static int region_export(struct kveik_client *client, struct client_region *region,
                         const struct kveik_memory_options *options, struct error *error)
{
    uint32_t wanted = options != NULL ? options->mode : KVEIK_MEMORY_AUTO;
    if (wanted != KVEIK_MEMORY_AUTO) {
        return region_try(client, region, wanted, options, error);
    }
    int status = ST_UNSUPPORTED;
    for (uint32_t mode = KVEIK_MEMORY_SHARED; mode <= KVEIK_MEMORY_CROSS; mode++) {
        status = region_try(client, region, mode, options, error);
        if (status == ST_OK || status == ST_UNAVAILABLE || status == ST_LOST ||
            status == ST_STUCK) {
            return status;
        }
    }
    return status;
}

int region_shadow(struct kveik_client *client, uint32_t handle, uint32_t *shadow_out,
                  struct error *error)
{
    const struct client_region *region = table_get(&client->regions, handle);
    struct client_region *shadow = heap_calloc(1, sizeof *shadow);
    if (shadow == NULL) {
        return error_set(error, ST_NO_MEMORY, "out of memory");
    }
    *shadow =
        (struct client_region){.address = region->address, .bytes = region->bytes, .memfd = -1};
    int status = region_try(client, shadow, KVEIK_MEMORY_CROSS, NULL, error);
    if (status == ST_OK && table_add(&client->regions, shadow, shadow_out) != ST_OK) {
        status = error_set(error, ST_NO_MEMORY, "out of memory");
    }
    if (status != ST_OK) {
        heap_free(shadow);
    }
    return status;
}

int kveik_memory_export(kveik_client *client, void *address, size_t bytes,
                        const struct kveik_memory_options *options, uint32_t *region_out,
                        uint32_t *mode_out, struct kveik_error *error)
{
    if (address == NULL || bytes == 0 || region_out == NULL ||
        (options != NULL &&
         (options->size != sizeof *options || options->mode > KVEIK_MEMORY_CROSS))) {
        return error_say(error, ST_INVALID,
                         "memory: give address, bytes, region_out, and options initialised with "
                         "KVEIK_MEMORY_OPTIONS_INIT");
    }
    struct client_region *region = heap_calloc(1, sizeof *region);
    if (region == NULL) {
        return error_say(error, ST_NO_MEMORY, "out of memory");
    }
    region->address = address;
    region->bytes = bytes;
    region->memfd = -1;
    struct error cause = {0};
    int status = client_lock(client);
    if (status == ST_OK) {
        status = region_export(client, region, options, &cause);
        if (status == ST_OK && table_add(&client->regions, region, region_out) != ST_OK) {
            status = error_set(&cause, ST_NO_MEMORY, "out of memory");
        }
        client_unlock(client);
    } else {
        (void)error_set(&cause, status, "%s", status_text(status));
    }
    if (status != ST_OK) {
        region_close(region);
        heap_free(region);
        return error_out(error, &cause);
    }
    if (mode_out != NULL) {
        *mode_out = region->mode;
    }
    return ST_OK;
}

/* ---- dropping -------------------------------------------------------------------------------- */

int region_drop(struct kveik_client *client, uint32_t handle, struct error *error)
{
    struct client_region *region = table_get(&client->regions, handle);
    if (region == NULL) {
        return error_set(error, ST_UNKNOWN_ID, "no region %u", handle);
    }
    struct msg msg = {.kind = MSG_DROP_MEMORY, .u.drop_memory.handle = region->remote};
    struct call_answer answer;
    int status = client_call(client, &msg, NULL, 0, &answer);
    if (status == ST_INVALID || status == ST_STUCK) {
        return error_set(error, status, "memory: %s", answer.text);
    }
    /* without a connection the daemon has nothing of ours any more */
    table_clear(&client->regions, handle);
    region_close(region);
    heap_free(region);
    return ST_OK;
}

int kveik_memory_drop(kveik_client *client, uint32_t region, uint32_t timeout_ms,
                      struct kveik_error *error)
{
    (void)timeout_ms; /* without a layout nothing copies: the answer comes at once or not at all */
    int status = client_lock(client);
    if (status != ST_OK) {
        return error_say(error, status, "%s", status_text(status));
    }
    struct error cause = {0};
    status = region_drop(client, region, &cause);
    client_unlock(client);
    return status == ST_OK ? ST_OK : error_out(error, &cause);
}

void regions_free(struct kveik_client *client)
{
    for (uint32_t i = 0; i < client->regions.count; i++) {
        struct client_region *region = client->regions.items[i];
        if (region != NULL) {
            region_close(region);
            heap_free(region);
        }
    }
    heap_free(client->regions.items);
    for (uint32_t i = 0; i < client->allocations.count; i++) {
        if (client->allocations.items[i] != NULL) {
            /* the user never freed it: the mapping stays, as the header says */
            struct allocation *allocation = client->allocations.items[i];
            (void)close(allocation->memfd);
            heap_free(allocation);
        }
    }
    heap_free(client->allocations.items);
}
