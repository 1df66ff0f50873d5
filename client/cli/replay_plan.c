/* From options to geometry and quota, and the memory that parent and engines share. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/size.h"
#include "client/cli/replay.h"

enum {
    CHUNK_BYTES = 64 << 20,  /* of one push or pull: what a request keeps in memory … */
    CHUNK_BLOCKS_MAX = 4096, /* … and what the daemon may have to evict for it in one step */
    STORED_ALIGNMENT = 64,   /* the daemon rounds planes up to it … */
    SLOT_SMALL_BYTES = 16 << 10,
    SLOT_SMALL_ALIGN = 512, /* … and blocks to one of these */
    SLOT_ALIGN = 4096,
    ELEMENTS_MAX = 65536,
};

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static int plan_geometry(const struct replay_settings *settings, struct replay_plan *plan,
                         struct error *error)
{
    char said[SIZE_TEXT_BYTES];
    size_format(settings->block_bytes, said);
    uint64_t planes = (uint64_t)settings->layers * settings->kinds;
    uint64_t step = planes * settings->heads * plan->block_tokens;
    if (settings->block_bytes == 0 || settings->block_bytes % step != 0) {
        return error_set(error, ST_INVALID,
                         "--block-bytes %s: must be a multiple of %llu: %u layers x %u kinds x %u "
                         "heads x %u tokens, a byte at least for each",
                         said, (unsigned long long)step, settings->layers, settings->kinds,
                         settings->heads, plan->block_tokens);
    }
    uint64_t elements = settings->block_bytes / step;
    if (elements > ELEMENTS_MAX) {
        return error_set(error, ST_INVALID,
                         "--block-bytes %s gives %llu bytes a head and token, at most %d: ask for "
                         "more --layers or --heads",
                         said, (unsigned long long)elements, ELEMENTS_MAX);
    }
    plan->block_bytes = (uint32_t)settings->block_bytes;
    plan->layers = settings->layers;
    plan->kinds = settings->kinds;
    plan->heads = settings->heads;
    plan->elements = (uint32_t)elements;
    uint64_t part_bytes = planes * round_up(settings->block_bytes / planes, STORED_ALIGNMENT);
    uint64_t align = part_bytes <= SLOT_SMALL_BYTES ? SLOT_SMALL_ALIGN : SLOT_ALIGN;
    plan->slot_bytes = round_up(part_bytes, align);
    return ST_OK;
}

static int plan_quota(const struct replay_settings *settings, struct replay_plan *plan,
                      struct error *error)
{
    if (settings->cache_blocks > 0 && settings->cache_bytes > 0) {
        return error_set(error, ST_INVALID,
                         "--cache-blocks and --cache-bytes say the same thing: give one of them");
    }
    plan->quota_bytes = settings->cache_bytes;
    if (settings->cache_blocks > 0) {
        if (settings->cache_blocks > UINT64_MAX / plan->slot_bytes) {
            return error_set(error, ST_LIMIT, "--cache-blocks is beyond all memory");
        }
        plan->quota_bytes = settings->cache_blocks * plan->slot_bytes;
    }
    if (plan->quota_bytes > 0 && plan->quota_bytes < plan->slot_bytes) {
        return error_set(error, ST_INVALID, "--cache-bytes: one block takes %llu bytes already",
                         (unsigned long long)plan->slot_bytes);
    }
    return ST_OK;
}

/* Blocks that are being filled cannot be evicted; a chunk that is larger than the cache would keep
 * its own end out. So all chunks in flight together fit. */
static void plan_chunks(struct replay_plan *plan)
{
    uint64_t chunk = plan->plain_lru ? 1 : CHUNK_BYTES / plan->block_bytes;
    if (plan->quota_bytes > 0) {
        uint64_t share =
            plan->quota_bytes / plan->slot_bytes / plan->engine_count / plan->in_flight;
        chunk = share < chunk ? share : chunk;
    }
    chunk = chunk < CHUNK_BLOCKS_MAX ? chunk : CHUNK_BLOCKS_MAX;
    chunk = chunk < plan->request_blocks_max ? chunk : plan->request_blocks_max;
    plan->chunk_blocks = chunk > 0 ? (uint32_t)chunk : 1;
}

int replay_plan_make(const struct replay_settings *settings, const struct trace *trace,
                     const struct trace_counts *counts, struct replay_plan *plan_out,
                     struct error *error)
{
    struct replay_plan plan = {
        .engine_count = settings->engines,
        .in_flight = settings->in_flight,
        .speed = settings->speed,
        .verify = settings->verify,
        .block_tokens = settings->block_tokens != 0 ? settings->block_tokens : trace->id_tokens,
        .request_blocks_max = counts->request_blocks_max,
        .deadline_ms = (uint32_t)settings->deadline_ms,
        .memory_mode = settings->memory,
        .plain_lru = settings->plain_lru,
    };
    if (plan.plain_lru && (plan.engine_count > 1 || plan.in_flight > 1)) {
        return error_set(error, ST_INVALID,
                         "--plain-lru is about order: it goes with one engine and one request in "
                         "flight");
    }
    int status = plan_geometry(settings, &plan, error);
    if (status == ST_OK) {
        status = plan_quota(settings, &plan, error);
    }
    if (status != ST_OK) {
        return status;
    }
    plan_chunks(&plan);
    if (getrandom(plan.isolation, sizeof plan.isolation, 0) != sizeof plan.isolation) {
        return error_errno(error, ST_IO, errno, "getrandom");
    }
    *plan_out = plan;
    return ST_OK;
}

/* ---- shared memory ----------------------------------------------------------------------------
 */

int replay_shared_create(const struct replay_plan *plan, const struct trace *trace,
                         struct replay_shared **shared_out, int *fd_out, struct error *error)
{
    uint64_t requests =
        round_up(sizeof(struct replay_shared) + plan->engine_count * sizeof(struct replay_numbers),
                 STORED_ALIGNMENT);
    uint64_t ids =
        round_up(requests + trace->request_count * sizeof(struct trace_request), STORED_ALIGNMENT);
    uint64_t bytes = ids + trace->id_count * sizeof(uint64_t);
    int fd = memfd_create("kveik-replay", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        int errnum = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return error_errno(error, ST_NO_MEMORY, errnum, "memfd of %llu bytes",
                           (unsigned long long)bytes);
    }
    struct replay_shared *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) {
        int errnum = errno;
        (void)close(fd);
        return error_errno(error, ST_NO_MEMORY, errnum, "mmap");
    }
    shared->bytes = bytes;
    shared->plan = *plan;
    shared->requests_offset = requests;
    shared->ids_offset = ids;
    shared->request_count = trace->request_count;
    shared->id_tokens = trace->id_tokens;
    shared->id_count = trace->id_count;
    (void)memcpy((char *)shared + requests, trace->requests,
                 trace->request_count * sizeof(struct trace_request));
    (void)memcpy((char *)shared + ids, trace->ids, trace->id_count * sizeof(uint64_t));
    *shared_out = shared;
    *fd_out = fd;
    return ST_OK;
}

int replay_shared_open(int fd, struct replay_shared **shared_out)
{
    off_t bytes = lseek(fd, 0, SEEK_END);
    if (bytes < (off_t)sizeof(struct replay_shared)) {
        return ST_INVALID;
    }
    struct replay_shared *shared =
        mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) {
        return ST_NO_MEMORY;
    }
    if (shared->bytes != (uint64_t)bytes) {
        (void)munmap(shared, (size_t)bytes);
        return ST_INVALID;
    }
    *shared_out = shared;
    return ST_OK;
}

void replay_shared_close(struct replay_shared *shared)
{
    if (shared != NULL) {
        (void)munmap(shared, shared->bytes);
    }
}

void replay_shared_trace(struct replay_shared *shared, struct trace *trace_out)
{
    void *requests = (char *)shared + shared->requests_offset;
    void *ids = (char *)shared + shared->ids_offset;
    *trace_out = (struct trace){.id_tokens = shared->id_tokens,
                                .requests = requests,
                                .request_count = shared->request_count,
                                .ids = ids,
                                .id_count = shared->id_count};
}
