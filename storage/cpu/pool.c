/*
 * Memory is committed by making a slab of the reservation accessible, and given back by making it
 * inaccessible and dropping its pages. A slab's life, granule by granule:
 *
 *   NONE --pool_commit--> COMMITTED --thread--> TOUCHING --thread--> TOUCHED --thread--> LOCKED
 *     ^-----------------------+--------------------+--------------------+-------------------'
 *                                   pool_decommit
 *
 * The thread obtains memory with MADV_POPULATE_WRITE, which fails where a plain touch would fault:
 * so the owner may take a slab back at any moment without waiting for the thread. It never changes
 * a byte: the owner and its copies may use a slab from the moment of its commit.
 *
 * With a file, a slab is a shared mapping of the file at the same offset. There the owner does wait
 * for the thread, one granule at most: a collapse under way works on the file, not on the mapping,
 * and would fill the hole that the owner has just made.
 */
#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/heap.h"
#include "base/status.h"
#include "storage/cpu/limits.h"
#include "storage/cpu/pool_internal.h"

#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

enum {
    POOL_MAGIC = 0x706f6f6c,
    STATUS_AGE_MAX_MS = 1000,
    BUDGET_LEAST_BYTES = 64 * 1024 * 1024,
};

uint64_t pool_default_budget(uint64_t limit_bytes)
{
    uint64_t budget = limits_available_bytes("") / 4 * 3;
    if (limit_bytes != 0 && budget > limit_bytes) {
        budget = limit_bytes;
    }
    budget = budget / POOL_GRANULE_BYTES * POOL_GRANULE_BYTES;
    return budget < BUDGET_LEAST_BYTES ? BUDGET_LEAST_BYTES : budget;
}

/* ---- the reservation --------------------------------------------------------------------------
 */

/* Advice stays with address space through commit and decommit, but not through a new mapping. Most
 * of it is a wish; KV in core dumps and in children is not. */
static bool advise(const struct pool *pool, char *at, uint64_t bytes)
{
    if (pool->options.pages != POOL_PAGES_HUGE) {
        bool huge = pool->options.pages == POOL_PAGES_AUTO;
        (void)madvise(at, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    return madvise(at, bytes, MADV_DONTDUMP) == 0 && madvise(at, bytes, MADV_DONTFORK) == 0;
}

static int reserve(struct pool *pool, struct error *error)
{
    uint64_t bytes = pool->options.reserve_bytes + POOL_GRANULE_BYTES;
    void *mapping =
        fault_fires(FAULT_MMAP)
            ? MAP_FAILED
            : mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        return error_errno(error, ST_NO_MEMORY, errno, "pool: cannot reserve %llu bytes",
                           (unsigned long long)bytes);
    }
    pool->mapping = mapping;
    uint64_t misaligned = (uint64_t)((uintptr_t)mapping % POOL_GRANULE_BYTES);
    pool->base = pool->mapping + (misaligned == 0 ? 0 : POOL_GRANULE_BYTES - misaligned);
    if (!advise(pool, pool->base, pool->options.reserve_bytes)) {
        return error_errno(error, ST_NO_MEMORY, errno, "pool: cannot keep KV out of core dumps");
    }
    uint64_t granules = pool->options.reserve_bytes / POOL_GRANULE_BYTES;
    if (vm_array_init(&pool->states, sizeof(atomic_uchar), granules) != ST_OK ||
        vm_array_commit(&pool->states, granules) != ST_OK) {
        return error_set(error, ST_NO_MEMORY, "pool: no memory for %llu granules",
                         (unsigned long long)granules);
    }
    return ST_OK;
}

static void unreserve(struct pool *pool)
{
    vm_array_finish(&pool->states);
    if (pool->mapping != NULL) {
        (void)munmap(pool->mapping, pool->options.reserve_bytes + POOL_GRANULE_BYTES);
    }
}

static bool wants_file(const struct pool_options *options)
{
    return options->has_fd || (options->file != NULL && options->file[0] != '\0');
}

static int check_options(const struct pool_options *options, struct error *error)
{
    if (options->budget_bytes == 0 || options->budget_bytes % POOL_GRANULE_BYTES != 0 ||
        options->reserve_bytes % POOL_GRANULE_BYTES != 0) {
        return error_set(error, ST_INVALID, "pool: sizes must be multiples of %u bytes",
                         (unsigned)POOL_GRANULE_BYTES);
    }
    if (options->reserve_bytes < options->budget_bytes ||
        options->reserve_bytes > (uint64_t)INT64_MAX) {
        return error_set(error, ST_INVALID, "pool: %llu bytes of address space for %llu of memory",
                         (unsigned long long)options->reserve_bytes,
                         (unsigned long long)options->budget_bytes);
    }
    if (options->has_fd && options->file != NULL && options->file[0] != '\0') {
        return error_set(error, ST_INVALID, "pool: both a file and a descriptor");
    }
    if (options->attach && !wants_file(options)) {
        return error_set(error, ST_INVALID, "pool: nothing to attach to: no file is named");
    }
    return ST_OK;
}

static int open_file(struct pool *pool, const struct pool_options *options, struct error *error)
{
    if (!wants_file(options)) {
        return ST_OK;
    }
    struct pool_file_options wanted = {.path = options->file,
                                       .fd = options->fd,
                                       .attach = options->attach,
                                       .bytes = options->reserve_bytes,
                                       .budget_bytes = options->budget_bytes,
                                       .hugetlb = options->pages == POOL_PAGES_HUGE};
    return pool_file_open(&pool->file, &wanted, error);
}

int pool_create(const struct pool_options *options, struct pool **pool_out, struct error *error)
{
    KVEIK_ASSERT(options != NULL && pool_out != NULL);
    int status = check_options(options, error);
    if (status != ST_OK) {
        return status;
    }
    struct pool *pool = heap_calloc(1, sizeof *pool);
    if (pool == NULL) {
        return error_set(error, ST_NO_MEMORY, "pool: no memory");
    }
    pool->magic = POOL_MAGIC;
    pool->options = *options;
    pool->options.file = NULL;
    pool->file.fd = -1;
    pool->touching = POOL_NOWHERE;
    queue_init(&pool->slabs);
    status = reserve(pool, error);
    if (status == ST_OK) {
        status = open_file(pool, options, error);
    }
    if (status == ST_OK) {
        status = pool_touch_start(pool, error);
    }
    if (status != ST_OK) {
        pool_file_close(&pool->file, options->attach);
        unreserve(pool);
        heap_free(pool);
        return status;
    }
    *pool_out = pool;
    return ST_OK;
}

void pool_destroy(struct pool *pool)
{
    if (pool == NULL) {
        return;
    }
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    pool_touch_stop(pool);
    unreserve(pool);
    pool_file_close(&pool->file, pool->keep);
    pool->magic = 0;
    heap_free(pool);
}

/* ---- slabs ------------------------------------------------------------------------------------
 */

static void check_range(const struct pool *pool, uint64_t offset, uint64_t bytes)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    KVEIK_ASSERT(bytes > 0);
    KVEIK_ASSERT(offset % POOL_GRANULE_BYTES == 0 && bytes % POOL_GRANULE_BYTES == 0);
    KVEIK_ASSERT(offset <= pool->options.reserve_bytes);
    KVEIK_ASSERT(bytes <= pool->options.reserve_bytes - offset);
}

/* Puts a mapping where the reservation was. It is made elsewhere and moved here: refused in place,
 * it could leave a hole in the reservation that some other mapping falls into. */
static bool place(const struct pool *pool, char *at, uint64_t bytes)
{
    bool file = pool->file.fd >= 0;
    /* Anonymous huge pages without NORESERVE: set aside now or refused now, never missed in a copy.
     * A file's memory is there already. */
    int flags = file ? MAP_SHARED | MAP_NORESERVE
                     : MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;
    off_t offset = file ? (off_t)(at - pool->base) : 0;
    void *elsewhere = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, pool->file.fd, offset);
    if (elsewhere == MAP_FAILED) {
        return false;
    }
    if (mremap(elsewhere, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED) {
        int cause = errno;
        (void)munmap(elsewhere, bytes);
        errno = cause;
        return false;
    }
    return advise(pool, at, bytes);
}

/* True when the range can be used from now on. */
static bool make_usable(const struct pool *pool, char *at, uint64_t bytes)
{
    if (fault_fires(FAULT_MMAP)) {
        errno = ENOMEM;
        return false;
    }
    if (pool->file.fd >= 0 || pool->options.pages == POOL_PAGES_HUGE) {
        return place(pool, at, bytes);
    }
    return mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0;
}

/* Back to bare address space. What fails here (the kernel's limit on mappings) leaves address space
 * accessible that nobody will use: harmless. The pages are dropped in any case. */
static void make_unusable(const struct pool *pool, char *at, uint64_t bytes)
{
    if (pool->file.fd >= 0 || pool->options.pages == POOL_PAGES_HUGE) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
        if (mmap(at, bytes, PROT_NONE, flags, -1, 0) != MAP_FAILED) {
            (void)advise(pool, at, bytes);
        }
        if (pool->file.fd >= 0) { /* if it fails, the next commit empties it or fails */
            (void)pool_file_empty(&pool->file, (uint64_t)(at - pool->base), bytes);
        }
        return;
    }
    if (pool->options.lock) {
        (void)munlock(at, bytes);
    }
    (void)mprotect(at, bytes, PROT_NONE);
    (void)madvise(at, bytes, MADV_DONTNEED);
}

static int check_budget(struct pool *pool, uint64_t bytes, struct error *error)
{
    if (bytes <= pool->options.budget_bytes - pool->committed_bytes) {
        return ST_OK;
    }
    pool->commit_failures++;
    return error_set(
        error, ST_LIMIT, "pool: %llu bytes more than the budget of %llu",
        (unsigned long long)(bytes + pool->committed_bytes - pool->options.budget_bytes),
        (unsigned long long)pool->options.budget_bytes);
}

/* A range whose memory is there (in the file), or comes with its use. */
static int commit_there(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error)
{
    if (!make_usable(pool, pool->base + offset, bytes)) {
        int cause = errno;
        make_unusable(pool, pool->base + offset, bytes);
        pool->commit_failures++;
        return error_errno(error, ST_NO_MEMORY, cause, "pool: cannot commit %llu bytes",
                           (unsigned long long)bytes);
    }
    for (uint64_t at = offset; at < offset + bytes; at += POOL_GRANULE_BYTES) {
        atomic_store(pool_state_of(pool, at), GRANULE_COMMITTED);
    }
    pool->committed_bytes += bytes;
    if (pool->options.prefault) {
        pool_touch_later(pool, offset, bytes);
    }
    return ST_OK;
}

static void check_uncommitted(const struct pool *pool, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset; at < offset + bytes; at += POOL_GRANULE_BYTES) {
        KVEIK_ASSERT(atomic_load(pool_state_of(pool, at)) == GRANULE_NONE);
    }
}

int pool_commit(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error)
{
    check_range(pool, offset, bytes);
    check_uncommitted(pool, offset, bytes);
    int status = check_budget(pool, bytes, error);
    if (status != ST_OK) {
        return status;
    }
    if (pool->file.fd >= 0 && !pool_file_allocate(&pool->file, offset, bytes)) {
        pool->commit_failures++;
        return error_errno(error, ST_NO_MEMORY, errno,
                           "pool: cannot allocate %llu bytes in its file (%s)",
                           (unsigned long long)bytes, pool->file.file_system);
    }
    return commit_there(pool, offset, bytes, error);
}

uint64_t pool_extent(const struct pool *pool)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    return pool->file.fd >= 0 ? pool_file_blocks(&pool->file) : 0;
}

void pool_adopt_begin(struct pool *pool, uint64_t extent)
{
    KVEIK_ASSERT(pool->options.attach);
    pool->whole = extent != 0 && pool_extent(pool) == extent;
}

int pool_adopt(struct pool *pool, uint64_t offset, uint64_t bytes, struct error *error)
{
    check_range(pool, offset, bytes);
    check_uncommitted(pool, offset, bytes);
    KVEIK_ASSERT(pool->options.attach);
    int status = check_budget(pool, bytes, error);
    if (status != ST_OK) {
        return status;
    }
    if (!pool->whole && !pool_file_holds(&pool->file, offset, bytes)) {
        pool->commit_failures++;
        return error_set(error, ST_MISMATCH,
                         "pool: the file does not hold all of %llu bytes at offset %llu",
                         (unsigned long long)bytes, (unsigned long long)offset);
    }
    return commit_there(pool, offset, bytes, error);
}

int pool_adopt_end(struct pool *pool, struct error *error)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    KVEIK_ASSERT(pool->options.attach);
    uint64_t begin = 0; /* of the range that is not committed */
    for (uint64_t at = 0; at <= pool->options.reserve_bytes; at += POOL_GRANULE_BYTES) {
        if (at < pool->options.reserve_bytes && !pool_committed(pool, at)) {
            continue;
        }
        if (at > begin && !pool_file_empty(&pool->file, begin, at - begin)) {
            return error_errno(error, ST_IO, errno, "pool: cannot give memory of its file back");
        }
        begin = at + POOL_GRANULE_BYTES;
    }
    return ST_OK;
}

void pool_decommit(struct pool *pool, uint64_t offset, uint64_t bytes)
{
    check_range(pool, offset, bytes);
    KVEIK_ASSERT(bytes <= pool->committed_bytes);
    (void)pthread_mutex_lock(&pool->mutex); /* no granule is being locked */
    for (uint64_t at = offset; at < offset + bytes; at += POOL_GRANULE_BYTES) {
        unsigned char before = atomic_exchange(pool_state_of(pool, at), GRANULE_NONE);
        KVEIK_ASSERT(before != GRANULE_NONE);
        if (before == GRANULE_TOUCHED || before == GRANULE_LOCKED) {
            (void)atomic_fetch_sub(&pool->touched_bytes, POOL_GRANULE_BYTES);
        }
        if (before == GRANULE_LOCKED) {
            (void)atomic_fetch_sub(&pool->locked_bytes, POOL_GRANULE_BYTES);
        }
    }
    if (pool->file.fd >= 0) {
        pool_touch_await(pool, offset, bytes);
    }
    (void)pthread_mutex_unlock(&pool->mutex);
    make_unusable(pool, pool->base + offset, bytes);
    pool->committed_bytes -= bytes;
}

bool pool_committed(const struct pool *pool, uint64_t offset)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    KVEIK_ASSERT(offset < pool->options.reserve_bytes);
    return atomic_load_explicit(pool_state_of(pool, offset), memory_order_relaxed) != GRANULE_NONE;
}

char *pool_address(const struct pool *pool, uint64_t offset)
{
    KVEIK_ASSERT(offset < pool->options.reserve_bytes);
    KVEIK_ASSERT(atomic_load_explicit(pool_state_of(pool, offset), memory_order_relaxed) !=
                 GRANULE_NONE);
    return pool->base + offset;
}

void pool_status(struct pool *pool, struct pool_status *status_out)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    uint64_t now_ms = clock_ms();
    if (now_ms - pool->status_asked_ms >= STATUS_AGE_MAX_MS) {
        pool->status_asked_ms = now_ms;
        (void)pthread_mutex_lock(&pool->mutex);
        pool->recount = true;
        (void)pthread_cond_signal(&pool->work);
        (void)pthread_mutex_unlock(&pool->mutex);
    }
    *status_out = (struct pool_status){.committed_bytes = pool->committed_bytes,
                                       .touched_bytes = atomic_load(&pool->touched_bytes),
                                       .huge_bytes = atomic_load(&pool->huge_bytes),
                                       .locked_bytes = atomic_load(&pool->locked_bytes),
                                       .commit_failures = pool->commit_failures,
                                       .file_system = "",
                                       .written_back = pool->file.written_back};
    if (pool->file.fd >= 0) {
        status_out->file_system = pool->file.file_system;
    }
}

int pool_keep(struct pool *pool)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    if (pool->file.fd < 0) {
        return ST_UNSUPPORTED;
    }
    pool->keep = true;
    return ST_OK;
}

bool pool_identity(const struct pool *pool, struct pool_identity *identity_out)
{
    KVEIK_CHECK_OBJ(pool, POOL_MAGIC);
    if (pool->file.fd < 0) {
        return false;
    }
    *identity_out = (struct pool_identity){.device = pool->file.device,
                                           .inode = pool->file.inode,
                                           .reserve_bytes = pool->options.reserve_bytes};
    return true;
}
